// The engine. It walks over sites in tiles, gets pairs of (row, coefficient, derivative) from a
// sampler, accumulates the rows into S, combines the S of a tile with the weight while it is still
// in the cache, and then discards it. The backward pass calls the same sampler again. This file is
// compiled once per instruction set; the ops (*_cpu.cpp) provide memory and threads.
#include "engine/engine.h"
#include "engine/matrix.h"
#ifdef __AVX512F__
#include "engine/matrix_amx.h"
#endif
#include "engine/rows.h"
#include "samplers/boxes_sampler.h"
#include "samplers/grid_sampler.h"
#include "samplers/points_sampler.h"
#include "samplers/table_sampler.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

constexpr int64_t kTileBytes = 512 << 10;  // size of S of a tile: half of a typical L2

// ---- Samplers and views

// Calls body(sampler) with the sampler of the view.
template <typename T, typename Body>
void with_sampler(const PointsView<T>& view, bool kernels_wanted, char* workspace,
                  const Body& body) {
  if (view.transposed() && view.offsets != nullptr) {
    PointsSampler<T, true> sampler(view, kernels_wanted, workspace);
    body(sampler);
  } else {
    PointsSampler<T, false> sampler(view, kernels_wanted, workspace);
    body(sampler);
  }
}

template <typename T>
int64_t bytes_of_sampler(const PointsView<T>& view) {
  return view.transposed() && view.offsets != nullptr ? PointsSampler<T, true>::bytes(view)
                                                      : PointsSampler<T, false>::bytes(view);
}

template <typename View>
struct SamplerOf;
template <typename T>
struct SamplerOf<GridView<T>> {
  using type = GridSampler<T>;
};
template <typename T>
struct SamplerOf<BoxesView<T>> {
  using type = BoxesSampler<T>;
};
template <typename T>
struct SamplerOf<TableView<T>> {
  using type = TableSampler<T>;
};

template <typename View, typename Body>
void with_sampler(const View& view, bool kernels_wanted, char* workspace, const Body& body) {
  typename SamplerOf<View>::type sampler(view, kernels_wanted, workspace);
  body(sampler);
}

template <typename View>
int64_t bytes_of_sampler(const View& view) {
  return SamplerOf<View>::type::bytes(view);
}

// Loads the sources of a site part by part and calls use(first) after each; `first` is true for the
// first part.
template <typename Sampler, typename Use>
void for_each_load(Sampler& sampler, int64_t site, const Use& use) {
  int64_t next = sampler.open(site, 0);
  use(true);
  while (next > 0) {
    next = sampler.open(site, next);
    use(false);
  }
}

template <typename View>
typename View::Number modulation_of(const View& view, int64_t site, int64_t g, int64_t k) {
  return view.modulations == nullptr ? 1 : view.modulations[view.modulation_index(site, g, k)];
}

// Adds the contribution of the pairs of one kernel point to the gradients of its offset and
// modulation.
template <typename View, typename T, int kDims>
void add_site_gradients(const View& view, int64_t site, int64_t g, int64_t k,
                        const PairSums<T, kDims>& sums, T modulation,
                        const SiteGradients<T>& gradients) {
  if (gradients.modulations != nullptr)
    gradients.modulations[view.modulation_index(site, g, k)] +=
        horizontal_sum<T>(sums.by_coefficient);
  if (gradients.offsets == nullptr) return;
  for (int d = 0; d < view.dim; ++d)
    gradients.offsets[view.offset_index(site, g, k, d)] +=
        modulation * horizontal_sum<T>(sums.by_derivative[d]);
}

// ---- The dense combiner

// The position at which the channels of a span begin in S, for kernel point 0. That of kernel point
// k is k * group_in further on.
inline int64_t place_of(const Span& span, const DenseShape& shape) {
  return span.group * shape.terms() + span.channel - span.group * shape.group_in();
}

// Writes a span of S for the pairs of a site, or adds further sources to it.
template <typename T, typename F>
void accumulate(const Pairs<T>& pairs, const DenseShape& shape, const Span& span, const F* features,
                bool narrow, bool first, T* sampled) {
  const F* rows = features + span.channel;
  T* target = sampled + place_of(span, shape);
  if (narrow && first && pairs.kernels != nullptr)
    return accumulate_narrow(pairs, shape.num_kernel_points, rows, shape.in_stride, span.width,
                             target, shape.group_in());
  accumulate_pairs(pairs, shape.num_kernel_points, rows, shape.in_stride, span.width, first, target,
                   shape.group_in());
}

template <typename T>
bool is_narrow(const DenseShape& shape) {
  return shape.group_in() <= kNarrow<T>;
}

// Computes S[site] as (G, K, C/G). If the shape is narrow, the sampler must list kernel points.
template <typename View, typename Sampler, typename T, typename F>
void sample_site(const View& view, Sampler& sampler, int64_t site, const DenseShape& shape,
                 const F* features, T* sampled) {
  const bool narrow = is_narrow<T>(shape);
  for_each_load(sampler, site, [&](bool first) {
    for (int64_t g = 0; g < view.num_groups(); ++g) {
      const Pairs<T> pairs = sampler.list(g);
      for_each_span(shape, view.num_groups(), g, [&](const Span& span) {
        accumulate(pairs, shape, span, features, narrow, first, sampled);
      });
    }
  });
}

// Adds to the gradients of one site's offsets and modulations, given grad_sampled, the gradient of
// its modulated S. Also writes S to `sampled` unless that is null.
template <typename View, typename Sampler, typename T, typename F>
void sample_site_backward(const View& view, Sampler& sampler, int64_t site, const DenseShape& shape,
                          const F* features, const T* grad_sampled,
                          const SiteGradients<T>& gradients, T* sampled) {
  const int64_t kernels = shape.num_kernel_points, in = shape.group_in();
  const bool narrow = is_narrow<T>(shape);
  for_each_load(sampler, site, [&](bool first) {
    for (int64_t g = 0; g < view.num_groups(); ++g) {
      const Pairs<T> pairs = sampler.list_derivatives(g);
      for_each_span(shape, view.num_groups(), g, [&](const Span& span) {
        const F* rows = features + span.channel;
        const int64_t place = place_of(span, shape);
        if (sampled != nullptr) accumulate(pairs, shape, span, features, narrow, first, sampled);
        for (int64_t k = 0; k < kernels; ++k) {
          PairSums<T, Sampler::kDims> sums;
          for (int i = pairs.begins[k]; i < pairs.begins[k + 1]; ++i)
            sums.add(pairs, i,
                     dot_lanes(rows + int64_t(pairs.rows[i]) * shape.in_stride,
                               grad_sampled + place + k * in, span.width));
          if (pairs.begins[k] < pairs.begins[k + 1])
            add_site_gradients(view, site, g, k, sums, modulation_of(view, site, g, k), gradients);
        }
      });
    }
  });
}

template <typename T>
int64_t tile_sites(const DenseShape& shape) {
  const int64_t fit = kTileBytes / int64_t(sizeof(T)) / shape.row() / 12 * 12;
  return fit < 48 ? 48 : fit > 120 ? 120 : fit;
}

// Working memory of the dense combiner for one tile, besides that of the sampler.
template <typename T>
struct DenseTile {
  DenseTile(const DenseShape& shape, Carver& carver)
      : sites(tile_sites<T>(shape)),
        sampled(carver.template take<T>(sites * shape.row())),
        rows(carver.template take<T>(sites * shape.out_channels)) {}
  int64_t sites;
  T* sampled;  // (sites, G, K, C/G)
  T* rows;     // (sites, O)
};

#ifdef __AVX512F__
// Working memory of sample_and_combine_pairs for one tile, besides that of the sampler. There are
// rows for whole AMX tiles; what those beyond the last site hold does not matter.
struct PairsTile {
  PairsTile(const DenseShape& shape, Carver& carver)
      : terms(round_up(shape.terms(), kPairTerms)),
        columns(round_up(shape.group_out(), kPairColumns)),
        sites(sites_within(shape.groups * terms * int64_t(sizeof(BFloat16)))),
        row(carver.take<float>(shape.row())),
        sampled(carver.take<BFloat16>(sites * shape.groups * terms)),
        product(carver.take<float>(sites * columns)) {}

  static int64_t sites_within(int64_t bytes_per_site) {
    const int64_t fit = kTileBytes / bytes_per_site / kPairRows * kPairRows;
    return fit < 2 * kPairRows ? 2 * kPairRows : fit > 4 * kPairRows ? 4 * kPairRows : fit;
  }

  int64_t terms, columns, sites;
  float* row;         // S of one site
  BFloat16* sampled;  // (sites, G, terms)
  float* product;     // (sites, columns) of one group
};
#endif

// ---- The depthwise combiner

// Expands modulations, one per group of channels, to vectors of channels. Channel c belongs to
// group c / width; the width need not be a multiple of a vector.
template <typename T>
class Spread {
 public:
  Spread(int64_t channels, int64_t groups)
      : width_(channels / groups), groups_(groups), even_(kLanes<T> % width_ == 0) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      by_group_[lane] = even_ ? lane / int(width_) : 0;
      firsts_[lane] = even_ ? lane * int(width_) % kLanes<T> : 0;
    }
  }

  // Returns the numbers of channels c, ..., c + kLanes - 1, one per lane.
  Vec<T> operator()(const T* numbers, int64_t c) const {
    const int64_t g = c / width_, left = groups_ - g;
    if (c + kLanes<T> <= (g + 1) * width_) return broadcast(numbers[g]);
    if (even_) return shuffle<T>(load_first(numbers + g, in_vector(left)), by_group_);
    Vec<T> value = {};
    for (int lane = 0; lane < kLanes<T> && (c + lane) / width_ < groups_; ++lane)
      value[lane] = numbers[(c + lane) / width_];
    return value;
  }

  // The reverse: adds every lane of `value`, which belongs to channels from c on, to the number of
  // its channel's group.
  void add(Vec<T> value, int64_t c, T* numbers) const {
    const int64_t g = c / width_, left = groups_ - g;
    if (c + kLanes<T> <= (g + 1) * width_) {
      numbers[g] += horizontal_sum<T>(value);
    } else if (even_) {
      for (int distance = 1; distance < width_; distance *= 2)
        value += shuffle<T>(value, lane_numbers<T>() ^ distance);
      const int64_t count = in_vector(left);
      store_first(numbers + g, load_first(numbers + g, count) + shuffle<T>(value, firsts_), count);
    } else {
      for (int lane = 0; lane < kLanes<T> && (c + lane) / width_ < groups_; ++lane)
        numbers[(c + lane) / width_] += value[lane];
    }
  }

 private:
  int64_t in_vector(int64_t left) const {
    return left < kLanes<T> / width_ ? left : kLanes<T> / width_;
  }

  int64_t width_, groups_;
  bool even_;  // a vector holds a whole number of groups
  LaneNumbers<T> by_group_, firsts_;
};

// The modulation of a depthwise view. The sampler applies modulations that have at most as many
// groups as the offsets; the combiner applies modulations with more, and so smaller, groups of
// channels.
template <typename View>
struct Modulator {
  using T = typename View::Number;
  Modulator(const View& view_, int64_t channels)
      : view(view_),
        spreads(view_.modulations != nullptr && view_.modulation_groups > view_.offset_groups),
        groups(view_.offset_groups),
        spread(channels, view_.modulation_groups) {}

  // The coefficients of pair i of a site for the channels from c on, one per lane.
  Vec<T> coefficient(int64_t site, const Pairs<T>& pairs, int i, int64_t c) const {
    if (!spreads) return broadcast(pairs.modulated[i]);
    const int64_t query = view.transposed() ? int64_t(pairs.rows[i]) : site;
    const T* numbers = view.modulations + view.modulation_index(query, 0, pairs.kernels[i]);
    return pairs.coefficients[i] * spread(numbers, c);
  }

  const View& view;
  const bool spreads;
  const int64_t groups;  // number of groups of the sampler
  const Spread<T> spread;
};

// Computes kCount vectors of out[site] from channel c on for the first sources of a site, or adds
// the contribution of further sources to them.
template <int kCount, typename View, typename T, typename F>
void combine_block(const Modulator<View>& modulator, int64_t site, const Pairs<T>& pairs,
                   const F* features, const T* weight, int64_t channels, int64_t c, bool first,
                   T* out) {
  Vec<T> sum[kCount];
  for (int v = 0; v < kCount; ++v) sum[v] = first ? Vec<T>{} : load(out + c + v * kLanes<T>);
  for (int i = 0; i < pairs.count; ++i) {
    const int64_t row = pairs.rows[i], k = pairs.kernels[i];
    const F* source = features + row * channels + c;
    const T* scale = weight + k * channels + c;
    for (int v = 0; v < kCount; ++v) {
      const Vec<T> coefficient = modulator.coefficient(site, pairs, i, c + v * kLanes<T>);
      sum[v] += coefficient * load(scale + v * kLanes<T>) * load_as<T>(source + v * kLanes<T>);
    }
  }
  for (int v = 0; v < kCount; ++v) store(out + c + v * kLanes<T>, sum[v]);
}

// The same for the last channels of a group if they are fewer than a vector.
template <typename View, typename T, typename F>
void combine_rest(const Modulator<View>& modulator, int64_t site, const Pairs<T>& pairs,
                  const F* features, const T* weight, int64_t channels, int64_t c, int64_t width,
                  bool first, T* out) {
  Vec<T> sum = first ? Vec<T>{} : load_first(out + c, width);
  for (int i = 0; i < pairs.count; ++i) {
    const int64_t row = pairs.rows[i], k = pairs.kernels[i];
    sum += modulator.coefficient(site, pairs, i, c) * load_first(weight + k * channels + c, width) *
           load_first_as<T>(features + row * channels + c, width);
  }
  store_first(out + c, sum, width);
}

template <typename View, typename Sampler, typename T, typename F>
void combine_site(const Modulator<View>& modulator, Sampler& sampler, int64_t site,
                  int64_t channels, const F* features, const T* weight, T* out) {
  constexpr int64_t kLane = kLanes<T>;
  for_each_load(sampler, site, [&](bool first) {
    for (int64_t g = 0; g < modulator.groups; ++g) {
      const Pairs<T> pairs = sampler.list(g);
      const int64_t end = (g + 1) * (channels / modulator.groups);
      int64_t c = g * (channels / modulator.groups);
      for (; c + 4 * kLane <= end; c += 4 * kLane)
        combine_block<4>(modulator, site, pairs, features, weight, channels, c, first, out);
      for (; c + kLane <= end; c += kLane)
        combine_block<1>(modulator, site, pairs, features, weight, channels, c, first, out);
      if (c < end)
        combine_rest(modulator, site, pairs, features, weight, channels, c, end - c, first, out);
    }
  });
}

// Backward of the depthwise combiner for one pair and the channels of one group: adds to
// grad_weight and to the gradients of modulations that have smaller groups. Returns one partial sum
// per lane; their total gives the gradients of the pair's offset and modulation.
template <typename View, typename T, typename F>
Vec<T> backward_pair(const Modulator<View>& modulator, const F* row, const T* grad, const T* weight,
                     T coefficient, T plain_coefficient, const T* modulations, int64_t begin,
                     int64_t end, T* grad_weight, T* grad_modulations) {
  Vec<T> product = {};
  for (int64_t c = begin; c < end; c += kLanes<T>) {
    const int64_t width = end - c < kLanes<T> ? end - c : int64_t(kLanes<T>);
    const bool full = width == kLanes<T>;
    Vec<T> term = full ? load_as<T>(row + c) * load(grad + c)
                       : load_first_as<T>(row + c, width) * load_first(grad + c, width);
    Vec<T> weighted = term * (full ? load(weight + c) : load_first(weight + c, width));
    if (modulator.spreads) {
      if (grad_modulations != nullptr)
        modulator.spread.add(plain_coefficient * weighted, c, grad_modulations);
      const Vec<T> modulation = modulator.spread(modulations, c);
      term *= modulation;
      weighted *= modulation;
    }
    product += weighted;
    if (grad_weight == nullptr) continue;
    if (full) {
      store(grad_weight + c, load(grad_weight + c) + coefficient * term);
    } else {
      store_first(grad_weight + c, load_first(grad_weight + c, width) + coefficient * term, width);
    }
  }
  return product;
}

template <typename View, typename Sampler, typename T, typename F>
void backward_site_depthwise(const Modulator<View>& modulator, Sampler& sampler, int64_t site,
                             int64_t channels, const F* features, const T* grad, const T* weight,
                             T* grad_weight, const SiteGradients<T>& gradients) {
  const View& view = modulator.view;
  const int64_t size = channels / modulator.groups;
  for_each_load(sampler, site, [&](bool) {
    for (int64_t g = 0; g < modulator.groups; ++g) {
      const Pairs<T> pairs = sampler.list_derivatives(g);
      for (int64_t k = 0; k < view.num_kernel_points; ++k) {
        if (pairs.begins[k] == pairs.begins[k + 1]) continue;
        const int64_t at = view.modulation_index(site, modulator.spreads ? 0 : g, k);
        const T* modulations = view.modulations == nullptr ? nullptr : view.modulations + at;
        const T modulation = modulator.spreads || modulations == nullptr ? T(1) : *modulations;
        PairSums<T, Sampler::kDims> sums;
        for (int i = pairs.begins[k]; i < pairs.begins[k + 1]; ++i)
          sums.add(pairs, i,
                   backward_pair(
                       modulator, features + int64_t(pairs.rows[i]) * channels, grad,
                       weight + k * channels, modulation * pairs.coefficients[i],
                       pairs.coefficients[i], modulations, g * size, (g + 1) * size,
                       grad_weight == nullptr ? nullptr : grad_weight + k * channels,
                       gradients.modulations == nullptr ? nullptr : gradients.modulations + at));
        const SiteGradients<T> rest{gradients.offsets,
                                    modulator.spreads ? nullptr : gradients.modulations};
        if (rest.any()) add_site_gradients(view, site, g, k, sums, modulation, rest);
      }
    }
  });
}

}  // namespace

// ---- What the ops call

template <typename View>
int64_t dense_bytes(const View& view, const DenseShape& shape) {
  Carver carver(nullptr);
  DenseTile<typename View::Number>(shape, carver);
  return carver.used() + bytes_of_sampler(view);
}

template <typename T>
int64_t panel_columns() {
  return kPanel<T>;
}

template <typename T>
void pack(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t terms,
          int64_t columns, T* packed) {
  pack_rows(matrix, row_stride, column_stride, terms, columns, packed);
}

template <typename View, typename F>
void sample_and_combine(const View& view, const DenseShape& shape, const F* features,
                        const typename View::Number* packed, F* out, int64_t begin, int64_t end,
                        char* workspace) {
  using T = typename View::Number;
  constexpr bool kDirect = sizeof(F) == sizeof(T);
  const int64_t group_size = round_up(shape.group_out(), kPanel<T>) * shape.terms();
  Carver carver(workspace);
  const DenseTile<T> tile(shape, carver);
  with_sampler(view, is_narrow<T>(shape), workspace + carver.used(), [&](auto& sampler) {
    for (int64_t first = begin; first < end; first += tile.sites) {
      const int64_t sites = end - first < tile.sites ? end - first : tile.sites;
      for (int64_t i = 0; i < sites; ++i)
        sample_site(view, sampler, first + i, shape, features, tile.sampled + i * shape.row());
      T* rows = tile.rows;
      int64_t stride = shape.out_channels;
      if constexpr (kDirect) {
        rows = out + first * shape.out_stride;
        stride = shape.out_stride;
      }
      for (int64_t g = 0; g < shape.groups; ++g) {
        multiply_packed(tile.sampled + g * shape.terms(), shape.row(), sites, shape.terms(),
                        packed + g * group_size, shape.group_out(), rows + g * shape.group_out(),
                        stride);
      }
      if constexpr (!kDirect) {
        for (int64_t i = 0; i < sites; ++i)
          convert(rows + i * stride, stride, out + (first + i) * shape.out_stride);
      }
    }
  });
}

#ifdef __AVX512F__
template <typename View>
int64_t pairs_bytes(const View& view, const DenseShape& shape) {
  Carver carver(nullptr);
  PairsTile(shape, carver);
  return carver.used() + bytes_of_sampler(view);
}

void pack_pairs(const BFloat16* matrix, int64_t row_stride, int64_t terms, int64_t columns,
                BFloat16* packed) {
  pack_pair_tile(matrix, row_stride, terms, columns, packed);
}

template <typename View>
void sample_and_combine_pairs(const View& view, const DenseShape& shape, const BFloat16* features,
                              const BFloat16* packed, BFloat16* out, int64_t begin, int64_t end,
                              char* workspace) {
  Carver carver(workspace);
  const PairsTile tile(shape, carver);
  const int64_t size = shape.terms(), stride = shape.groups * tile.terms;
  for (int64_t i = 0; i < tile.sites * shape.groups; ++i)
    for (int64_t p = size; p < tile.terms; ++p) tile.sampled[i * tile.terms + p] = BFloat16{0};
  with_sampler(view, is_narrow<float>(shape), workspace + carver.used(), [&](auto& sampler) {
    for (int64_t first = begin; first < end; first += tile.sites) {
      const int64_t sites = end - first < tile.sites ? end - first : tile.sites;
      for (int64_t i = 0; i < sites; ++i) {
        sample_site(view, sampler, first + i, shape, features, tile.row);
        for (int64_t g = 0; g < shape.groups; ++g)
          convert(tile.row + g * size, size, tile.sampled + i * stride + g * tile.terms);
      }
      for (int64_t g = 0; g < shape.groups; ++g) {
        multiply_pairs(tile.sampled + g * tile.terms, stride, round_up(sites, kPairRows),
                       tile.terms, packed + g * tile.columns * tile.terms, tile.columns,
                       tile.product, tile.columns);
        for (int64_t i = 0; i < sites; ++i)
          convert(tile.product + i * tile.columns, shape.group_out(),
                  out + (first + i) * shape.out_stride + g * shape.group_out());
      }
    }
  });
}
#endif

template <typename View, typename F>
void sample_backward(const View& view, const DenseShape& shape, const F* features, const F* grad,
                     const typename View::Number* packed,
                     const SiteGradients<typename View::Number>& gradients, int64_t begin,
                     int64_t end, typename View::Number* sampled, char* workspace) {
  using T = typename View::Number;
  const int64_t group_size = round_up(shape.terms(), kPanel<T>) * shape.group_out();
  Carver carver(workspace);
  const DenseTile<T> tile(shape, carver);
  with_sampler(view, is_narrow<T>(shape), workspace + carver.used(), [&](auto& sampler) {
    for (int64_t first = begin; first < end; first += tile.sites) {
      const int64_t sites = end - first < tile.sites ? end - first : tile.sites;
      T* target = sampled == nullptr ? nullptr : sampled + (first - begin) * shape.row();
      if (!gradients.any()) {
        for (int64_t i = 0; i < sites; ++i)
          sample_site(view, sampler, first + i, shape, features, target + i * shape.row());
        continue;
      }
      widen(grad + first * shape.out_channels, sites * shape.out_channels, tile.rows);
      for (int64_t g = 0; g < shape.groups; ++g) {
        multiply_packed(tile.rows + g * shape.group_out(), shape.out_channels, sites,
                        shape.group_out(), packed + g * group_size, shape.terms(),
                        tile.sampled + g * shape.terms(), shape.row());
      }
      for (int64_t i = 0; i < sites; ++i) {
        sample_site_backward(view, sampler, first + i, shape, features,
                             tile.sampled + i * shape.row(), gradients,
                             target == nullptr ? nullptr : target + i * shape.row());
      }
    }
  });
}

template <typename T, typename F>
void pad_groups(const F* rows, int64_t count, int64_t columns, int64_t groups, T* padded) {
  const int64_t size = columns / groups, room = round_up(size, kPanel<T>);
  for (int64_t i = 0; i < count * groups; ++i) {
    widen(rows + i * size, size, padded + i * room);
    for (int64_t c = size; c < room; ++c) padded[i * room + c] = 0;
  }
}

template <typename T>
void accumulate_outer(const T* left, int64_t left_stride, const T* right, int64_t right_stride,
                      int64_t count, int64_t rows, int64_t columns, T* out, int64_t out_stride) {
  accumulate_transposed(left, left_stride, right, right_stride, count, rows, columns, out,
                        out_stride);
}

template <typename View>
int64_t depthwise_bytes(const View& view, int64_t channels) {
  Carver carver(nullptr);
  carver.take<typename View::Number>(channels);
  return carver.used() + bytes_of_sampler(view);
}

template <typename View, typename F>
void combine_depthwise(const View& view, int64_t channels, const F* features,
                       const typename View::Number* weight, F* out, int64_t begin, int64_t end,
                       char* workspace) {
  using T = typename View::Number;
  Carver carver(workspace);
  T* row = carver.template take<T>(channels);
  const Modulator<View> modulator(view, channels);
  with_sampler(view, true, workspace + carver.used(), [&](auto& sampler) {
    for (int64_t site = begin; site < end; ++site) {
      if constexpr (sizeof(F) == sizeof(T)) {
        combine_site(modulator, sampler, site, channels, features, weight, out + site * channels);
      } else {
        combine_site(modulator, sampler, site, channels, features, weight, row);
        convert(row, channels, out + site * channels);
      }
    }
  });
}

template <typename View, typename F>
void depthwise_backward(const View& view, int64_t channels, const F* features, const F* grad,
                        const typename View::Number* weight, typename View::Number* grad_weight,
                        const SiteGradients<typename View::Number>& gradients, int64_t begin,
                        int64_t end, char* workspace) {
  using T = typename View::Number;
  Carver carver(workspace);
  T* row = carver.template take<T>(channels);
  const Modulator<View> modulator(view, channels);
  with_sampler(view, true, workspace + carver.used(), [&](auto& sampler) {
    for (int64_t site = begin; site < end; ++site) {
      widen(grad + site * channels, channels, row);
      backward_site_depthwise(modulator, sampler, site, channels, features, row, weight,
                              grad_weight, gradients);
    }
  });
}

// ---- Tables of pairs

// Calls body(index, site, k, coefficient) for all pairs of sites [begin, end) whose row is in [low,
// high). `index` is the index into `counts` of count_pairs.
template <typename View, typename Body>
void for_each_pair(const View& view, int64_t low, int64_t high, int64_t begin, int64_t end,
                   char* workspace, const Body& body) {
  const int64_t kernels = view.num_kernel_points, groups = view.num_groups();
  with_sampler(view, true, workspace, [&](auto& sampler) {
    for (int64_t site = begin; site < end; ++site) {
      for_each_load(sampler, site, [&](bool) {
        for (int64_t g = 0; g < groups; ++g) {
          const auto pairs = sampler.list(g);
          for (int i = 0; i < pairs.count; ++i) {
            const int64_t row = int64_t(pairs.rows[i]) - low;
            if (uint64_t(row) < uint64_t(high - low))
              body((row * groups + g) * kernels + pairs.kernels[i], site, pairs.kernels[i],
                   pairs.modulated[i]);
          }
        }
      });
    }
  });
}

template <typename View>
int64_t listing_bytes(const View& view) {
  return bytes_of_sampler(view);
}

template <typename View>
void row_ranges(const View& view, int64_t size, int64_t begin, int64_t end, uint32_t* lowest,
                uint32_t* highest, char* workspace) {
  with_sampler(view, true, workspace, [&](auto& sampler) {
    for (int64_t block = begin; block < end; ++block) {
      uint32_t low = UINT32_MAX, high = 0;
      const int64_t stop =
          (block + 1) * size < view.num_sites() ? (block + 1) * size : view.num_sites();
      for (int64_t site = block * size; site < stop; ++site) {
        for_each_load(sampler, site, [&](bool) {
          for (int64_t g = 0; g < view.num_groups(); ++g) {
            const auto pairs = sampler.list(g);
            for (int i = 0; i < pairs.count; ++i) {
              low = pairs.rows[i] < low ? pairs.rows[i] : low;
              high = pairs.rows[i] > high ? pairs.rows[i] : high;
            }
          }
        });
      }
      lowest[block] = low;
      highest[block] = high;
    }
  });
}

template <typename View>
void count_pairs(const View& view, int64_t low, int64_t high, int64_t begin, int64_t end,
                 int64_t* counts, char* workspace) {
  for_each_pair(view, low, high, begin, end, workspace,
                [&](int64_t index, auto...) { ++counts[index]; });
}

template <typename View>
void list_pairs(const View& view, int64_t low, int64_t high, int64_t begin, int64_t end,
                int64_t* next, uint32_t* sites, int32_t* kernels,
                typename View::Number* coefficients, char* workspace) {
  for_each_pair(view, low, high, begin, end, workspace,
                [&](int64_t index, int64_t site, int32_t k, auto coefficient) {
                  const int64_t at = next[index]++;
                  sites[at] = uint32_t(site);
                  coefficients[at] = coefficient;
                  if (kernels != nullptr) kernels[at] = k;
                });
}

template <typename T>
int64_t sampler_bytes(const PointsView<T>& view) {
  Carver carver(nullptr);
  carver.take<T>(view.offset_groups * view.num_kernel_points);
  return carver.used() + bytes_of_sampler(view);
}

template <typename T>
void min_squared_distances(const PointsView<T>& view, int64_t begin, int64_t end, char* workspace) {
  PointsSampler<T, false> sampler(view, false, workspace);
  for (int64_t m = begin; m < end; ++m) {
    for_each_load(sampler, m, [&](bool) {
      for (int64_t g = 0; g < view.offset_groups; ++g) {
        sampler.select(g);
        sampler.leave_distances(g);
      }
    });
  }
}

template <typename T>
void min_squared_distances_backward(const PointsView<T>& view, const T* grad, int64_t begin,
                                    int64_t end, T* grad_offsets, char* workspace) {
  Carver carver(workspace);
  T* smallest = carver.template take<T>(view.offset_groups * view.num_kernel_points);
  PointsSampler<T, false> sampler(view, false, workspace + carver.used());
  for (int64_t m = begin; m < end; ++m) {
    for_each_load(sampler, m, [&](bool first) {
      for (int64_t g = 0; g < view.offset_groups; ++g) {
        sampler.select(g);
        for (int k = 0; k < view.num_kernel_points; ++k) {
          T& least = smallest[g * view.num_kernel_points + k];
          if (first) least = T(__builtin_inf());
          const auto nearest = sampler.nearest(k);
          if (!(nearest.squared < least)) continue;
          least = nearest.squared;
          const T scale = T(-2) * grad[view.distance_index(m, g) + k];
          for (int d = 0; d < view.dim; ++d)
            grad_offsets[view.offset_index(m, g, k, d)] = scale * nearest.difference[d];
        }
      }
    });
  }
}

// Keep these in sync with the declarations in engine/functions.inc.
#define KPDEFORM_INSTANTIATE_FORWARD(View, F)                                                     \
  template void sample_and_combine(const View&, const DenseShape&, const F*, const View::Number*, \
                                   F*, int64_t, int64_t, char*);                                  \
  template void combine_depthwise(const View&, int64_t, const F*, const View::Number*, F*,        \
                                  int64_t, int64_t, char*);
#define KPDEFORM_INSTANTIATE_BACKWARD(View, F)                                                    \
  template void sample_backward(const View&, const DenseShape&, const F*, const F*,               \
                                const View::Number*, const SiteGradients<View::Number>&, int64_t, \
                                int64_t, View::Number*, char*);                                   \
  template void depthwise_backward(const View&, int64_t, const F*, const F*, const View::Number*, \
                                   View::Number*, const SiteGradients<View::Number>&, int64_t,    \
                                   int64_t, char*);
#define KPDEFORM_INSTANTIATE_BYTES(View)                        \
  template int64_t dense_bytes(const View&, const DenseShape&); \
  template int64_t depthwise_bytes(const View&, int64_t);
#define KPDEFORM_INSTANTIATE_TABLE(View)                                                         \
  template int64_t listing_bytes(const View&);                                                   \
  template void row_ranges(const View&, int64_t, int64_t, int64_t, uint32_t*, uint32_t*, char*); \
  template void count_pairs(const View&, int64_t, int64_t, int64_t, int64_t, int64_t*, char*);   \
  template void list_pairs(const View&, int64_t, int64_t, int64_t, int64_t, int64_t*, uint32_t*, \
                           int32_t*, View::Number*, char*);
#define KPDEFORM_INSTANTIATE(T)                                                                   \
  template int64_t panel_columns<T>();                                                            \
  template void pack(const T*, int64_t, int64_t, int64_t, int64_t, T*);                           \
  template void accumulate_outer(const T*, int64_t, const T*, int64_t, int64_t, int64_t, int64_t, \
                                 T*, int64_t);                                                    \
  template int64_t sampler_bytes(const PointsView<T>&);                                           \
  template void min_squared_distances(const PointsView<T>&, int64_t, int64_t, char*);             \
  template void min_squared_distances_backward(const PointsView<T>&, const T*, int64_t, int64_t,  \
                                               T*, char*);                                        \
  KPDEFORM_INSTANTIATE_BYTES(PointsView<T>)                                                       \
  KPDEFORM_INSTANTIATE_BYTES(GridView<T>)                                                         \
  KPDEFORM_INSTANTIATE_BYTES(BoxesView<T>)                                                        \
  KPDEFORM_INSTANTIATE_BYTES(TableView<T>)                                                        \
  KPDEFORM_INSTANTIATE_TABLE(GridView<T>)                                                         \
  KPDEFORM_INSTANTIATE_TABLE(BoxesView<T>)
#define KPDEFORM_INSTANTIATE_ELEMENT(T, F)                           \
  template void pad_groups(const F*, int64_t, int64_t, int64_t, T*); \
  KPDEFORM_INSTANTIATE_FORWARD(PointsView<T>, F)                     \
  KPDEFORM_INSTANTIATE_BACKWARD(PointsView<T>, F)                    \
  KPDEFORM_INSTANTIATE_FORWARD(GridView<T>, F)                       \
  KPDEFORM_INSTANTIATE_BACKWARD(GridView<T>, F)                      \
  KPDEFORM_INSTANTIATE_FORWARD(BoxesView<T>, F)                      \
  KPDEFORM_INSTANTIATE_BACKWARD(BoxesView<T>, F)                     \
  KPDEFORM_INSTANTIATE_FORWARD(TableView<T>, F)

#ifdef __AVX512F__
#define KPDEFORM_INSTANTIATE_PAIRS(View)                                                  \
  template int64_t pairs_bytes(const View&, const DenseShape&);                           \
  template void sample_and_combine_pairs(const View&, const DenseShape&, const BFloat16*, \
                                         const BFloat16*, BFloat16*, int64_t, int64_t, char*);
KPDEFORM_INSTANTIATE_PAIRS(PointsView<float>)
KPDEFORM_INSTANTIATE_PAIRS(GridView<float>)
#endif
KPDEFORM_INSTANTIATE(float)
KPDEFORM_INSTANTIATE(double)
KPDEFORM_INSTANTIATE_ELEMENT(float, float)
KPDEFORM_INSTANTIATE_ELEMENT(float, Half)
KPDEFORM_INSTANTIATE_ELEMENT(float, BFloat16)
KPDEFORM_INSTANTIATE_ELEMENT(double, double)

}  // namespace kpdeform::KPDEFORM_ISA
