// The points sampler on CUDA: the sources of a site, and the coefficient of each source for a
// kernel point. Contract: kpconv.h.
//
// In the plain view, a site is a query and its sources are its neighbours. In the transposed view,
// used for the gradient of features, a site is a point and its sources are the queries that have
// this point as a neighbour. Offsets and modulations belong to the query in both views. A virtual
// site is a site together with one deformation group (of offsets, of modulations, or of both).
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "base/cuda.h"
#include "samplers/points_math.h"
#include "samplers/sampler_cuda.h"

namespace kpdeform {

// What a kernel knows about its sampler when it is compiled: nothing, or the view and whether
// kernel points move.
enum class View { kAny, kRigid, kMoving, kRigidTransposed, kMovingTransposed };

template <typename T>
struct PointsData {
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
};

template <typename Number, View kView = View::kAny>
struct PointsSampler : PointsData<Number> {
  using T = Number;
  using Data = PointsData<T>;
  using Data::aggregation, Data::dim, Data::influence, Data::kernel_points, Data::members,
      Data::modulation_groups, Data::modulations, Data::neighbors, Data::num_kernel_points,
      Data::num_points, Data::num_queries, Data::offset_groups, Data::offsets, Data::points,
      Data::queries, Data::reach, Data::starts, Data::width;
  static constexpr int kDims = 3;  // number of coordinates; the third is 0 for 2D clouds
  static constexpr bool kSharesSources = true;
  static constexpr bool kTransposedView =
      kView == View::kRigidTransposed || kView == View::kMovingTransposed;

  // Calls body(sampler) with the same sampler for one view; kPlain: it is not the transposed one.
  template <bool kPlain, typename Body>
  void with_view(const Body& body) const {
    const Data& data = *this;
    if constexpr (!kPlain) {
      if (transposed() && moves()) return body(PointsSampler<T, View::kMovingTransposed>{data});
      if (transposed()) return body(PointsSampler<T, View::kRigidTransposed>{data});
    }
    if (moves()) return body(PointsSampler<T, View::kMoving>{data});
    body(PointsSampler<T, View::kRigid>{data});
  }

  // The data of a source that the lanes of a site keep in shared memory. An empty one is not a
  // number away from everything.
  struct alignas(16) Source {
    T y[kDims];       // point - query
    uint32_t row;     // row of the features to gather, or kNoRow
    int32_t closest;  // its nearest kernel point, for kClosest
  };
  static __device__ Source no_source() {
    constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
    return {{kNaN, kNaN, kNaN}, kNoRow, 0};
  }
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

  __host__ __device__ bool transposed() const {
    if constexpr (kView == View::kAny) return starts != nullptr;
    return kTransposedView;
  }
  // Whether kernel points have offsets.
  __host__ __device__ bool moves() const {
    if constexpr (kView == View::kAny) return offsets != nullptr;
    return kView == View::kMoving || kView == View::kMovingTransposed;
  }
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
    Source source = no_source();
    const int64_t query = transposed() ? members[starts[site] + i] : site;
    const int64_t point = transposed() ? site : neighbors[site * width + i];
    if (point < 0 || point >= num_points || query < 0 || query >= num_queries) return source;
    source.row = uint32_t(transposed() ? query : point);
    const T *const from = queries + query * dim, *const to = points + point * dim;
#pragma unroll
    for (int d = 0; d < kDims; ++d) source.y[d] = d < dim ? to[d] - from[d] : T(0);
    const bool prunes = moves() && influence != kLinear;
    if (!prunes && aggregation == kSum) return source;
    T smallest = 0, vector[kDims];
    for (int k = 0; k < num_kernel_points; ++k) {
      const T squared = difference(place(site, k, group), source, k, group, vector);
      if (k == 0 || squared < smallest) smallest = squared, source.closest = k;
    }
    return prunes && !(smallest < reach.squared_sigma) ? no_source() : source;
  }

  // The position of kernel point k. In the transposed view it lacks the offset, which depends on
  // the source.
  __device__ Place place(int64_t site, int k, int group) const {
    Place at{};
    const T* const by = moves() && !transposed() ? offset(site, k, group) : nullptr;
#pragma unroll
    for (int d = 0; d < kDims; ++d)
      if (d < dim) at.x[d] = kernel_points[k * dim + d] + (by != nullptr ? by[d] : T(0));
    return at;
  }
  // A place that is not a number away from every source.
  static __device__ Place nowhere() {
    constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
    return {{kNaN, kNaN, kNaN}};
  }
  // The coordinates of the offset of kernel point k.
  __device__ const T* offset(int64_t query, int k, int group) const {
    const int64_t at = query * offset_groups + (offset_groups > 1 ? group : 0);
    return offsets + at * (num_kernel_points * dim) + k * dim;
  }

  // Computes the vector from kernel point k to the source; returns its squared length.
  __device__ T difference(const Place& place, const Source& source, int k, int group,
                          T* vector) const {
    T squared = 0;
    const T* const by = moves() && transposed() ? offset(source.row, k, group) : nullptr;
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      T x = place.x[d];
      if (by != nullptr && d < dim) x += by[d];
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

  // Calls body with the influence as a compile-time constant.
  template <typename Body>
  __device__ void with_influence(const Body& body) const {
    if (influence == kLinear) return body(std::integral_constant<int, kLinear>{});
    if (influence == kGaussian) return body(std::integral_constant<int, kGaussian>{});
    body(std::integral_constant<int, kConstant>{});
  }

  // The coefficient of a source for kernel point k, or 0 if the pair does not contribute, without a
  // branch that depends on data. `place` may be nowhere(), and `source` no_source(). It ignores
  // kClosest: see serves().
  template <int kInfluence>
  __device__ T weight(const Place& place, Source source, int k, int group) const {
    const bool exists = source.row != kNoRow;
    if (transposed() && !exists) source.row = 0;  // may be read, and is ignored
    T v[kDims];
    const T squared = difference(place, source, k, group, v);
    T value(squared >= T(0));             // 0 for NaN
    if constexpr (kInfluence == kLinear)  // fmax ignores NaN
      value = std::fmax(T(1) - approximate_sqrt(squared) * reach.inverse_sigma, T(0));
    if constexpr (kInfluence == kGaussian)
      value = squared >= T(0) ? gaussian_influence(squared, reach) : T(0);
    if (!transposed()) return value;
    return exists ? value * modulation(source.row, k, group) : T(0);
  }
  // The same in the plain view, with the derivative of the coefficient by the offset.
  template <int kInfluence>
  __device__ T weight_with_derivative(const Place& place, const Source& source, int k, int group,
                                      T* derivative) const {
    const T squared = difference(place, source, k, group, derivative);
    const bool exists = squared >= T(0);  // false for NaN
    T value(exists), slope(0);
    if constexpr (kInfluence == kLinear) {
      const T inverse = squared > T(0) ? approximate_inverse_sqrt(squared) : T(0);
      value = exists ? std::fmax(T(1) - squared * inverse * reach.inverse_sigma, T(0)) : T(0);
      slope = value > T(0) ? inverse * reach.inverse_sigma : T(0);
    } else if constexpr (kInfluence == kGaussian) {
      value = exists ? gaussian_influence(squared, reach) : T(0);
      slope = gaussian_derivative(value, reach);
    }
#pragma unroll
    for (int d = 0; d < kDims; ++d) derivative[d] = exists ? slope * derivative[d] : T(0);
    return value;
  }
  // Whether kernel points share a source, and if not, whether kernel point k has this one.
  __device__ bool all_serve() const { return aggregation != kClosest; }
  __device__ bool serves(const Source& source, int k) const { return source.closest == k; }
};
static_assert(CudaSampler<PointsSampler<float>>);

}  // namespace kpdeform
