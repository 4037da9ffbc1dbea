// The engine (DESIGN: one idea). It walks sites in tiles, asks a sampler for (row, coefficient,
// derivative), accumulates rows into S, combines a tile that is still in cache, and drops it.
// Backward asks the same sampler again. Compiled once per instruction set; memory, tiles and
// threads are the business of the ops (*_cpu.cpp).
#include "matrix.h"
#include "points_sampler.h"
#include "sampling.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

// target[0:channels] = sum_i coefficients[i] * features[rows[i]], a block of channels at a time in
// registers.
template <typename T>
void accumulate_rows(const SampleList<T>& list, const T* features, int64_t stride, int64_t channels,
                     T* target) {
  constexpr int64_t kBlock = 4 * kLanes<T>;
  int64_t c = 0;
  for (; c + kBlock <= channels; c += kBlock) {
    Vec<T> sum[4] = {};
    for (int i = 0; i < list.count; ++i) {
      const T* row = features + list.rows[i] * stride + c;
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[v] += list.coefficients[i] * load(row + v * kLanes<T>);
    }
    for (int v = 0; v < 4; ++v) store(target + c + v * kLanes<T>, sum[v]);
  }
  for (; c < channels; c += kLanes<T>) {
    const int64_t width = channels - c < kLanes<T> ? channels - c : kLanes<T>;
    Vec<T> sum = {};
    for (int i = 0; i < list.count; ++i) {
      sum += list.coefficients[i] * load_first(features + list.rows[i] * stride + c, width);
    }
    store_first(target + c, sum, width);
  }
}

template <typename T>
T dot(const T* left, const T* right, int64_t count) {
  Vec<T> sum = {};
  int64_t c = 0;
  for (; c + kLanes<T> <= count; c += kLanes<T>) sum += load(left + c) * load(right + c);
  if (c < count) sum += load_first(left + c, count - c) * load_first(right + c, count - c);
  return horizontal_sum<T>(sum);
}

// S[site] as (G, K, C/G).
template <typename T, typename Sampler>
void sample_site(Sampler& sampler, int64_t site, const DenseShape& shape, const T* features,
                 T* sampled) {
  sampler.open(site);
  for (int64_t k = 0; k < shape.num_kernel_points; ++k) {
    const SampleList<T> list = sampler.list(int(k));
    for (int64_t g = 0; g < shape.groups; ++g) {
      accumulate_rows(list, features + g * shape.group_in(), shape.in_channels, shape.group_in(),
                      sampled + g * shape.terms() + k * shape.group_in());
    }
  }
}

template <typename T, typename Sampler>
void sample_and_combine_with(Sampler& sampler, const DenseShape& shape, const T* features,
                             const T* packed, T* out, int64_t begin, int64_t end, T* tile,
                             int64_t tile_sites) {
  const int64_t group_size = round_up(shape.group_out(), kPanel<T>) * shape.terms();
  for (int64_t first = begin; first < end; first += tile_sites) {
    const int64_t sites = end - first < tile_sites ? end - first : tile_sites;
    for (int64_t i = 0; i < sites; ++i)
      sample_site(sampler, first + i, shape, features, tile + i * shape.row());
    for (int64_t g = 0; g < shape.groups; ++g) {
      multiply_packed(tile + g * shape.terms(), shape.row(), sites, shape.terms(),
                      packed + g * group_size, shape.group_out(),
                      out + first * shape.out_channels + g * shape.group_out(), shape.out_channels);
    }
  }
}

// Gradients of one site's offsets and modulations, given grad_sampled, the gradient of the
// modulated S.
template <typename T, typename Sampler>
void sample_site_backward(Sampler& sampler, int64_t site, const PointsView<T>& view,
                          const DenseShape& shape, const T* features, const T* grad_sampled,
                          const SiteGradients<T>& gradients) {
  sampler.open(site);
  for (int64_t k = 0; k < shape.num_kernel_points; ++k) {
    const SampleList<T> list = sampler.list_derivatives(int(k));
    T by_offset[3] = {}, by_modulation = 0;
    for (int i = 0; i < list.count; ++i) {
      T product = 0;  // <features[row], gradient of S[site, k]>
      for (int64_t g = 0; g < shape.groups; ++g) {
        product += dot(features + list.rows[i] * shape.in_channels + g * shape.group_in(),
                       grad_sampled + g * shape.terms() + k * shape.group_in(), shape.group_in());
      }
      by_modulation += list.coefficients[i] * product;
      for (int d = 0; d < 3; ++d) by_offset[d] += list.derivatives[d][i] * product;
    }
    const int64_t pair = site * shape.num_kernel_points + k;
    const T modulation = view.modulations != nullptr ? view.modulations[pair] : T(1);
    if (gradients.modulations != nullptr) gradients.modulations[pair] = by_modulation;
    if (gradients.offsets == nullptr) continue;
    for (int d = 0; d < view.dim; ++d)
      gradients.offsets[pair * view.dim + d] = modulation * by_offset[d];
  }
}

template <typename T>
int nearest_source(const T* squared, int count) {
  int nearest = 0;
  for (int j = 1; j < count; ++j) nearest = squared[j] < squared[nearest] ? j : nearest;
  return nearest;
}

template <typename T>
using SiteSampler = PointsSampler<T, false>;
template <typename T>
using PairSampler = PointsSampler<T, true>;

}  // namespace

template <typename T>
int64_t sampler_bytes(const PointsView<T>& view, bool transposed) {
  return transposed && view.offsets != nullptr ? PairSampler<T>::bytes(view)
                                               : SiteSampler<T>::bytes(view);
}

template <typename T>
int64_t packed_size(int64_t terms, int64_t columns) {
  return round_up(columns, kPanel<T>) * terms;
}

template <typename T>
void pack(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t terms,
          int64_t columns, T* packed) {
  pack_panels(matrix, row_stride, column_stride, terms, columns, packed);
}

template <typename T>
void sample_and_combine(const PointsView<T>& view, bool transposed, const DenseShape& shape,
                        const T* features, const T* packed, T* out, int64_t begin, int64_t end,
                        T* tile, int64_t tile_sites, char* workspace) {
  if (transposed && view.offsets != nullptr) {
    PairSampler<T> sampler(view, true, workspace);
    sample_and_combine_with(sampler, shape, features, packed, out, begin, end, tile, tile_sites);
  } else {
    SiteSampler<T> sampler(view, transposed, workspace);
    sample_and_combine_with(sampler, shape, features, packed, out, begin, end, tile, tile_sites);
  }
}

template <typename T>
void sample(const PointsView<T>& view, const DenseShape& shape, const T* features, int64_t begin,
            int64_t end, T* sampled, char* workspace) {
  SiteSampler<T> sampler(view, false, workspace);
  for (int64_t m = begin; m < end; ++m) {
    sample_site(sampler, m, shape, features, sampled + (m - begin) * shape.row());
  }
}

template <typename T>
void sample_backward(const PointsView<T>& view, const DenseShape& shape, const T* features,
                     const T* grad_sampled, int64_t begin, int64_t end,
                     const SiteGradients<T>& gradients, char* workspace) {
  SiteSampler<T> sampler(view, false, workspace);
  for (int64_t m = begin; m < end; ++m) {
    sample_site_backward(sampler, m, view, shape, features,
                         grad_sampled + (m - begin) * shape.row(), gradients);
  }
}

template <typename T>
void multiply(const T* left, int64_t left_stride, int64_t rows, int64_t terms, const T* packed,
              int64_t columns, T* out, int64_t out_stride) {
  multiply_packed(left, left_stride, rows, terms, packed, columns, out, out_stride);
}

template <typename T>
void accumulate_outer(const T* left, int64_t left_stride, const T* right, int64_t right_stride,
                      int64_t count, int64_t rows, int64_t columns, T* out, int64_t out_stride) {
  accumulate_transposed(left, left_stride, right, right_stride, count, rows, columns, out,
                        out_stride);
}

template <typename T>
void min_squared_distances(const PointsView<T>& view, int64_t begin, int64_t end, T* out,
                           char* workspace) {
  SiteSampler<T> sampler(view, false, workspace);
  for (int64_t m = begin; m < end; ++m) {
    sampler.open(m);
    for (int k = 0; k < view.num_kernel_points; ++k) {
      const T* squared = sampler.squared_distances(k);
      const bool empty = sampler.count() == 0;
      out[m * view.num_kernel_points + k] =
          empty ? T(0) : squared[nearest_source(squared, sampler.count())];
    }
  }
}

template <typename T>
void min_squared_distances_backward(const PointsView<T>& view, const T* grad, int64_t begin,
                                    int64_t end, T* grad_offsets, char* workspace) {
  SiteSampler<T> sampler(view, false, workspace);
  for (int64_t m = begin; m < end; ++m) {
    sampler.open(m);
    for (int k = 0; k < view.num_kernel_points; ++k) {
      const int nearest = nearest_source(sampler.squared_distances(k), sampler.count());
      const int64_t pair = m * view.num_kernel_points + k;
      for (int d = 0; d < view.dim; ++d) {
        grad_offsets[pair * view.dim + d] =
            sampler.count() == 0 ? T(0) : T(-2) * grad[pair] * sampler.difference(k, nearest, d);
      }
    }
  }
}

// Keep in step with sampling.h.
#define KPDEFORM_INSTANTIATE(T)                                                                   \
  template int64_t sampler_bytes(const PointsView<T>&, bool);                                     \
  template int64_t packed_size<T>(int64_t, int64_t);                                              \
  template void pack(const T*, int64_t, int64_t, int64_t, int64_t, T*);                           \
  template void sample_and_combine(const PointsView<T>&, bool, const DenseShape&, const T*,       \
                                   const T*, T*, int64_t, int64_t, T*, int64_t, char*);           \
  template void sample(const PointsView<T>&, const DenseShape&, const T*, int64_t, int64_t, T*,   \
                       char*);                                                                    \
  template void sample_backward(const PointsView<T>&, const DenseShape&, const T*, const T*,      \
                                int64_t, int64_t, const SiteGradients<T>&, char*);                \
  template void multiply(const T*, int64_t, int64_t, int64_t, const T*, int64_t, T*, int64_t);    \
  template void accumulate_outer(const T*, int64_t, const T*, int64_t, int64_t, int64_t, int64_t, \
                                 T*, int64_t);                                                    \
  template void min_squared_distances(const PointsView<T>&, int64_t, int64_t, T*, char*);         \
  template void min_squared_distances_backward(const PointsView<T>&, const T*, int64_t, int64_t,  \
                                               T*, char*);

KPDEFORM_INSTANTIATE(float)
KPDEFORM_INSTANTIATE(double)

}  // namespace kpdeform::KPDEFORM_ISA
