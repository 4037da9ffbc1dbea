// The points sampler on CUDA: the sources of a site, and the coefficient of each source for a
// kernel point. Contract: kpconv.h.
//
// In the plain view, a site is a query and its sources are its neighbours. In the transposed view,
// used for the gradient of features, a site is a point and its sources are the queries that have
// this point as a neighbour. Offsets and modulations belong to the query in both views. A virtual
// site is a site together with one deformation group (of offsets, of modulations, or of both).
#pragma once

#include "base/cuda.h"
#include "samplers/points_math.h"
#include "samplers/sampler_cuda.h"

namespace kpdeform {

template <typename Number>
struct PointsSampler {
  using T = Number;
  static constexpr int kDims = 3;  // number of coordinates; the third is 0 for 2D clouds

  const T* queries;        // (M, D)
  const T* points;         // (N, D)
  const T* kernel_points;  // (K, D)
  const T* offsets;        // (M, OG, K, D) or null
  const T* modulations;    // (M, K, MG) or null
  Indices neighbors;       // (M, H)
  const int64_t* starts;   // transposed: (N + 1,), otherwise null
  Indices members;         // transposed: queries of point n begin at starts[n]
  int64_t num_queries, num_points, width;
  int num_kernel_points, dim;
  int offset_groups, modulation_groups;
  Influence influence;
  Aggregation aggregation;
  Reach<T> reach;

  // The data of a source that the lanes of a site keep in shared memory.
  struct Source {
    T y[kDims];       // point - query
    uint32_t row;     // row of the features to gather, or kNoRow
    int32_t closest;  // its nearest kernel point, for kClosest
  };
  struct Place {
    T x[kDims];
  };
  // A coefficient, its row of features and its derivative by the offset. The row is kNoRow if the
  // pair does not contribute.
  struct Coefficient {
    T value;
    uint32_t row;
    T derivative[kDims];
  };

  __device__ bool transposed() const { return starts != nullptr; }
  // The table may come from the caller and hold any values: ranges outside of its members count as
  // empty.
  __device__ int64_t num_sources(int64_t site, int) const {
    if (!transposed()) return width;
    const int64_t begin = starts[site], end = starts[site + 1];
    return begin >= 0 && end <= num_queries * width && begin < end ? end - begin : 0;
  }

  // Source i of the site. An index that is not a row of points, or a member that is not a row of
  // queries, counts as empty and is not read.
  __device__ Source source(int64_t site, int64_t i, int group) const {
    Source source;
    source.row = kNoRow;
    source.closest = 0;
    const int64_t query = transposed() ? members[starts[site] + i] : site;
    const int64_t point = transposed() ? site : neighbors[site * width + i];
    if (point < 0 || point >= num_points || query < 0 || query >= num_queries) return source;
    source.row = uint32_t(transposed() ? query : point);
#pragma unroll
    for (int d = 0; d < kDims; ++d)
      source.y[d] = d < dim ? points[point * dim + d] - queries[query * dim + d] : T(0);
    const bool prunes = offsets != nullptr && influence != kLinear;
    if (!prunes && aggregation == kSum) return source;
    T smallest = 0, vector[kDims];
    for (int k = 0; k < num_kernel_points; ++k) {
      const T squared = difference(place(site, k, group), source, k, group, vector);
      if (k == 0 || squared < smallest) smallest = squared, source.closest = k;
    }
    if (prunes && !(smallest < reach.squared_sigma)) source.row = kNoRow;
    return source;
  }

  // The position of kernel point k. In the transposed view it lacks the offset, which depends on
  // the source.
  __device__ Place place(int64_t site, int k, int group) const {
    Place at{};
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      if (d >= dim) continue;
      at.x[d] = kernel_points[k * dim + d];
      if (offsets != nullptr && !transposed()) at.x[d] += offset(site, k, group, d);
    }
    return at;
  }
  __device__ T offset(int64_t query, int k, int group, int d) const {
    const int64_t at = query * offset_groups + (offset_groups > 1 ? group : 0);
    return offsets[(at * num_kernel_points + k) * dim + d];
  }

  // Computes the vector from kernel point k to the source; returns its squared length.
  __device__ T difference(const Place& place, const Source& source, int k, int group,
                          T* vector) const {
    T squared = 0;
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      T x = place.x[d];
      if (offsets != nullptr && transposed() && d < dim) x += offset(source.row, k, group, d);
      vector[d] = source.y[d] - x;
      squared += vector[d] * vector[d];
    }
    return squared;
  }

  __device__ T modulation(int64_t query, int k, int group) const {
    if (modulations == nullptr) return T(1);
    return modulations[(query * num_kernel_points + k) * modulation_groups +
                       (modulation_groups > 1 ? group : 0)];
  }
  // The factor of the whole sum of a kernel point. In the transposed view it is 1, because every
  // source has a modulation of its own.
  __device__ T site_factor(int64_t site, int k, int group) const {
    return transposed() ? T(1) : modulation(site, k, group);
  }

  // The index of the gradient of a modulation; the kernel writes one per group.
  __device__ int64_t modulation_place(int64_t site, int k, int group, int num_groups) const {
    return (site * num_kernel_points + k) * num_groups + group;
  }

  // The coefficient of a source for kernel point k.
  template <bool kDerivative>
  __device__ Coefficient coefficient(const Place& place, const Source& source, int k,
                                     int group) const {
    Coefficient a{};
    a.row = kNoRow;
    if (source.row == kNoRow || (aggregation == kClosest && source.closest != k)) return a;
    T v[kDims];
    const T squared = difference(place, source, k, group, v);
    if (!(squared >= T(0))) return a;  // NaN
    T derivative = 0;
    if (influence == kLinear) {
      if (squared >= reach.squared_sigma) return a;
      const T distance = std::sqrt(squared);
      a.value = linear_influence(distance, reach);
      if constexpr (kDerivative) derivative = linear_derivative(distance, reach);
    } else if (influence == kGaussian) {
      a.value = gaussian_influence(squared, reach);
      if constexpr (kDerivative) derivative = gaussian_derivative(a.value, reach);
    } else {
      a.value = T(1);
    }
    if (transposed()) a.value *= modulation(source.row, k, group);
    if (a.value != T(0)) a.row = source.row;
    if constexpr (kDerivative) {
#pragma unroll
      for (int d = 0; d < kDims; ++d) a.derivative[d] = derivative * v[d];
    }
    return a;
  }
};
static_assert(CudaSampler<PointsSampler<float>>);

}  // namespace kpdeform
