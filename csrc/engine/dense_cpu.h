// The dense combiner on the CPU: memory and division among threads, for the inputs ("view",
// samplers/views.h) of any sampler. The arithmetic is in engine_isa.cpp.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "base/common.h"
#include "base/dispatch_cpu.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "engine/engine.h"

namespace kpdeform {

constexpr int64_t kGrain = 32;                // the fewest sites that are worth a task
constexpr int64_t kSuperTileBytes = 4 << 20;  // S of a super tile, shared by all threads

// The fewest sites that are worth a task: kGrain, or as many as take about ten million operations
// if that is fewer. Every task reads the whole weight, so that few sites are divided only as far as
// the threads need it.
inline int64_t site_grain(const DenseShape& shape, int64_t sites) {
  const int64_t affordable = (8 << 20) / (shape.row() * shape.group_out());
  const int64_t share = num_pieces(sites, 2 * num_threads());
  return std::clamp<int64_t>(std::max(affordable, share), 1, kGrain);
}

// The layout of a weight to pack into one matrix per group. The matrix of group g has `blocks`
// blocks of `terms` rows; element (p, c) of block k is weight[g * group_stride + k * block_stride +
// p * row_stride + c * column_stride].
struct Packing {
  int64_t groups, group_stride, blocks, block_stride, terms, row_stride, columns, column_stride;
};

template <typename T>
Scratch<T> pack_groups(const T* weight, const Packing& layout) {
  const int64_t width = KPDEFORM_DISPATCH(panel_columns<T>);
  const int64_t panels = (layout.columns + width - 1) / width;
  const int64_t panel_size = layout.blocks * layout.terms * width;
  Scratch<T> packed(layout.groups * panels * panel_size);
  const int64_t rows = layout.groups * panels * layout.blocks;
  parallel_chunks(rows, std::max<int64_t>(1, (1 << 14) / (layout.terms * width)),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      const int64_t k = i % layout.blocks, panel = i / layout.blocks % panels;
                      const int64_t g = i / layout.blocks / panels;
                      KPDEFORM_DISPATCH(pack,
                                        weight + g * layout.group_stride + k * layout.block_stride +
                                            panel * width * layout.column_stride,
                                        layout.row_stride, layout.column_stride, layout.terms,
                                        std::min(width, layout.columns - panel * width),
                                        packed.get() + (g * panels + panel) * panel_size +
                                            k * layout.terms * width);
                    }
                  });
  return packed;
}

// Computes out (sites, O) for sites [first, last).
template <typename View, typename F, typename T>
void convolve(const View& view, const DenseShape& shape, const F* features, const T* packed, F* out,
              int64_t first, int64_t last) {
  const int64_t bytes = KPDEFORM_DISPATCH(dense_bytes, view, shape);
  parallel_chunks(last - first, site_grain(shape, last - first), [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    KPDEFORM_DISPATCH(sample_and_combine, view, shape, features, packed, out, first + begin,
                      first + end, workspace.get());
  });
}

#ifdef KPDEFORM_X86
// Packs weight (K, C/G, O) for the product of S with the weight on AMX tiles.
inline Scratch<BFloat16> pack_forward_pairs(const DenseShape& shape, const BFloat16* weight) {
  const int64_t tiles = num_pieces(shape.group_out(), kPairColumns);
  const int64_t size = round_up(shape.terms(), kPairTerms) * kPairColumns;
  Scratch<BFloat16> packed(shape.groups * tiles * size);
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / size);
  parallel_chunks(shape.groups * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / tiles, column = i % tiles * kPairColumns;
      avx512::pack_pairs(weight + g * shape.group_out() + column, shape.out_channels, shape.terms(),
                         std::min(kPairColumns, shape.group_out() - column),
                         packed.get() + i * size);
    }
  });
  return packed;
}

// Computes out (sites, O) of bfloat16 features with the product on AMX tiles.
template <typename View>
void convolve_pairs(const View& view, const DenseShape& shape, const BFloat16* features,
                    const BFloat16* weight, BFloat16* out, int64_t sites) {
  const Scratch<BFloat16> packed = pack_forward_pairs(shape, weight);
  const int64_t bytes = avx512::pairs_bytes(view, shape);
  const int64_t grain = round_up(site_grain(shape, sites), kPairRows);
  parallel_chunks(sites, grain, [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    avx512::sample_and_combine_pairs(view, shape, features, packed.get(), out, begin, end,
                                     workspace.get());
  });
}
#endif

// Computes out (sites, O) of all sites; weight is (K, C/G, O).
template <typename View, typename F>
void convolve(const View& view, const DenseShape& shape, const F* features, const Tensor& weight,
              F* out, int64_t sites) {
  using T = typename View::Number;
#ifdef KPDEFORM_X86
  if constexpr (std::is_same_v<F, BFloat16>) {
    if (has_tiles() && weight.scalar_type() == ScalarType::BFloat16) {
      const Tensor w = torch::stable::contiguous(weight);
      return convolve_pairs(view, shape, features, data<BFloat16>(w), out, sites);
    }
  }
#endif
  const Tensor w =
      compute_copy(weight, std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float);
  const Scratch<T> packed =
      pack_groups(data<T>(w), {shape.groups, shape.group_out(), 1, 0, shape.terms(),
                               shape.out_channels, shape.group_out(), 1});
  convolve(view, shape, features, packed.get(), out, 0, sites);
}

// Packs weight (K, C/G, O), transposed, for the step from the gradient of the result to the
// gradient of S.
template <typename T>
Scratch<T> pack_backward(const DenseShape& shape, const T* weight) {
  return pack_groups(weight, {shape.groups, shape.group_out(), 1, 0, shape.group_out(), 1,
                              shape.terms(), shape.out_channels});
}

// Computes the gradient of features for sites [first, last) of a transposed view: the convolution
// of grad (M, O) with the weight, its input and output channels swapped. If groups of channels have
// their own offsets or modulations, there is one such convolution per group.
template <typename View, typename F, typename T>
void features_backward(View view, const DenseShape& shape, const F* grad, const T* weight,
                       F* grad_features, int64_t first, int64_t last) {
  const int64_t kernels = shape.num_kernel_points, in = shape.group_in(), out = shape.group_out();
  const auto pack = [&](const T* from, int64_t groups, int64_t columns) {
    return pack_groups(
        from, {groups, out, kernels, in * shape.out_channels, out, 1, columns, shape.out_channels});
  };
  const int64_t groups = view.num_groups();
  if (groups == 1) {
    const DenseShape swapped{kernels,      shape.out_channels, shape.in_channels,
                             shape.groups, shape.out_stride,   shape.in_stride};
    const Scratch<T> packed = pack(weight, shape.groups, in);
    return convolve(view, swapped, grad, packed.get(), grad_features, first, last);
  }
  for (int64_t g = 0; g < groups; ++g) {
    view.only_group = g;
    for_each_span(shape, groups, g, [&](const Span& span) {
      const DenseShape swapped{kernels, out, span.width, 1, shape.out_stride, shape.in_stride};
      const int64_t inside = span.channel - span.group * in;
      const Scratch<T> packed =
          pack(weight + inside * shape.out_channels + span.group * out, 1, span.width);
      convolve(view, swapped, grad + span.group * out, packed.get(), grad_features + span.channel,
               first, last);
    });
  }
}

// Adds to those gradients of weight, offsets and modulations that are not null. For the gradient of
// weight, sites are processed in super tiles (as many sites as have an S of about 4 MiB) with two
// buffers: in step t, threads compute S of super tile t into one buffer and add the product of super
// tile t - 1 from the other. A task is a few sites of tile t, or a few rows of the gradient.
template <typename View, typename F, typename T>
void sites_backward(const View& view, int64_t num_sites, const DenseShape& shape, const F* features,
                    const F* grad, const T* weight, T* grad_weight,
                    const SiteGradients<T>& gradients) {
  const Scratch<T> packed = gradients.any() ? pack_backward(shape, weight) : Scratch<T>(0);
  const int64_t bytes = KPDEFORM_DISPATCH(dense_bytes, view, shape);
  const auto sample = [&](int64_t begin, int64_t end, T* sampled) {
    const Scratch<char> workspace(bytes);
    KPDEFORM_DISPATCH(sample_backward, view, shape, features, grad, packed.get(), gradients, begin,
                      end, sampled, workspace.get());
  };
  if (grad_weight == nullptr)
    return parallel_chunks(num_sites, site_grain(shape, num_sites),
                           [&](int64_t begin, int64_t end) { sample(begin, end, nullptr); });

  constexpr int64_t kRowsPerTask = 48;
  const int64_t tile =
      std::clamp<int64_t>(kSuperTileBytes / int64_t(sizeof(T)) / shape.row(), 64, 1024);
  const int64_t panel = KPDEFORM_DISPATCH(panel_columns<T>);
  const int64_t columns = (shape.group_out() + panel - 1) / panel * panel * shape.groups;
  const Scratch<T> sampled(2 * tile * shape.row()), padded(2 * tile * columns);
  const int64_t tiles = num_pieces(num_sites, tile);
  const auto sites_of = [&](int64_t t) {
    return t < 0 ? 0 : std::clamp<int64_t>(num_sites - t * tile, 0, tile);
  };
  const int64_t size = std::max(kGrain, num_pieces(tile, 4 * num_threads()));  // sites per task
  const auto sampling_tasks = [&](int64_t t) { return num_pieces(sites_of(t), size); };
  const int64_t row_tasks = num_pieces(shape.terms(), kRowsPerTask);

  const auto sample_tile = [&](int64_t t, int64_t task) {
    const int64_t at = t % 2 * tile + task * size;  // position in the buffers
    const int64_t begin = t * tile + task * size;
    const int64_t end = std::min(begin + size, t * tile + sites_of(t));
    sample(begin, end, sampled.get() + at * shape.row());
    KPDEFORM_DISPATCH(pad_groups, grad + begin * shape.out_channels, end - begin,
                      shape.out_channels, shape.groups, padded.get() + at * columns);
  };
  const auto multiply_tile = [&](int64_t t, int64_t task) {
    const int64_t first = task * kRowsPerTask;
    const int64_t rows = std::min(kRowsPerTask, shape.terms() - first);
    for (int64_t g = 0; g < shape.groups; ++g) {
      KPDEFORM_DISPATCH(
          accumulate_outer, sampled.get() + t % 2 * tile * shape.row() + g * shape.terms() + first,
          shape.row(), padded.get() + t % 2 * tile * columns + g * columns / shape.groups, columns,
          sites_of(t), rows, shape.group_out(),
          grad_weight + first * shape.out_channels + g * shape.group_out(), shape.out_channels);
    }
  };
  parallel_steps(
      tiles + 1, num_threads(),
      [&](int64_t step) { return sampling_tasks(step) + (step > 0 ? row_tasks : 0); },
      [&](int64_t step, int64_t task) {
        const int64_t rest = task - sampling_tasks(step);
        rest < 0 ? sample_tile(step, task) : multiply_tile(step - 1, rest);
      });
}

}  // namespace kpdeform
