// Inner loops over channels, shared by all samplers. Rows are stored as F and computed with as T.
#pragma once

#include <cstdint>

#include "base/elements.h"
#include "base/simd.h"
#include "samplers/sampler.h"

namespace kpdeform::KPDEFORM_ISA {

// Accumulates kCount vectors of channels over the pairs [begin, end).
template <int kCount, typename T, typename F>
inline void accumulate_block(const Pairs<T>& pairs, int begin, int end, const F* features,
                             int64_t stride, bool first, T* target) {
  Vec<T> sum[kCount];
  for (int v = 0; v < kCount; ++v) sum[v] = first ? Vec<T>{} : load(target + v * kLanes<T>);
  for (int i = begin; i < end; ++i) {
    const F* row = features + pairs.rows[i] * stride;
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) sum[v] += pairs.modulated[i] * load_as<T>(row + v * kLanes<T>);
  }
  for (int v = 0; v < kCount; ++v) store(target + v * kLanes<T>, sum[v]);
}

// For every kernel point k and c < channels: target[k * target_stride + c] = sum of modulated *
// features[row, c] over the pairs of k, plus the previous value of the target unless `first`. A
// block of channels stays in registers.
template <typename T, typename F>
inline void accumulate_pairs(Pairs<T> pairs, int64_t num_kernel_points, const F* features,
                             int64_t stride, int64_t channels, bool first, T* target,
                             int64_t target_stride) {
  constexpr int64_t kLane = kLanes<T>;
  for (int64_t k = 0; k < num_kernel_points; ++k, target += target_stride) {
    const int begin = pairs.begins[k], end = pairs.begins[k + 1];
    int64_t c = 0;
    for (; c + 4 * kLane <= channels; c += 4 * kLane)
      accumulate_block<4>(pairs, begin, end, features + c, stride, first, target + c);
    for (; c + 2 * kLane <= channels; c += 2 * kLane)
      accumulate_block<2>(pairs, begin, end, features + c, stride, first, target + c);
    for (; c + kLane <= channels; c += kLane)
      accumulate_block<1>(pairs, begin, end, features + c, stride, first, target + c);
    if (c < channels) {
      const int64_t width = channels - c;
      Vec<T> sum = first ? Vec<T>{} : load_first(target + c, width);
      for (int i = begin; i < end; ++i)
        sum += pairs.modulated[i] * load_first_as<T>(features + pairs.rows[i] * stride + c, width);
      store_first(target + c, sum, width);
    }
  }
}

// The most channels for which accumulate_narrow is faster than accumulate_pairs.
template <typename T>
constexpr int64_t kNarrow = 2 * kLanes<T>;

// accumulate_pairs for the first sources of a site and at most kCount vectors of channels. A kernel
// point has few pairs, and processors cannot predict how many, so that a loop over them costs more
// by its end than by its work. Here one loop goes over all pairs of the site: it keeps the sums as
// long as the kernel point stays the same, and stores them after every pair.
template <int kCount, typename T, typename F>
inline void accumulate_narrow_block(Pairs<T> pairs, int64_t num_kernel_points, const F* features,
                                    int64_t stride, int64_t channels, T* target,
                                    int64_t target_stride) {
  constexpr int64_t kLane = kLanes<T>, kLast = kCount - 1;
  const int64_t rest = channels - kLast * kLane;  // channels of the last vector
  for (int64_t k = 0; k < num_kernel_points; ++k) {
    T* sums = target + k * target_stride;
    for (int v = 0; v < kLast; ++v) store(sums + v * kLane, Vec<T>{});
    store_first(sums + kLast * kLane, Vec<T>{}, rest);
  }
  Vec<T> sum[kCount] = {};
  int32_t before = -1;
  for (int i = 0; i < pairs.count; ++i) {
    const int32_t k = pairs.kernels[i];
    const F* row = features + pairs.rows[i] * stride;
    T* sums = target + k * target_stride;
#pragma GCC unroll 2
    for (int v = 0; v < kCount; ++v) sum[v] = kept_if<T>(k == before, sum[v]);
#pragma GCC unroll 2
    for (int v = 0; v < kLast; ++v) {
      sum[v] += pairs.modulated[i] * load_as<T>(row + v * kLane);
      store(sums + v * kLane, sum[v]);
    }
    sum[kLast] += pairs.modulated[i] * load_first_as<T>(row + kLast * kLane, rest);
    store_first(sums + kLast * kLane, sum[kLast], rest);
    before = k;
  }
}

template <typename T, typename F>
inline void accumulate_narrow(const Pairs<T>& pairs, int64_t num_kernel_points, const F* features,
                              int64_t stride, int64_t channels, T* target, int64_t target_stride) {
  if (channels <= kLanes<T>) {
    accumulate_narrow_block<1>(pairs, num_kernel_points, features, stride, channels, target,
                               target_stride);
  } else {
    accumulate_narrow_block<2>(pairs, num_kernel_points, features, stride, channels, target,
                               target_stride);
  }
}

// The dot product of left and right as one partial sum per lane.
template <typename T, typename F>
inline Vec<T> dot_lanes(const F* left, const T* right, int64_t count) {
  Vec<T> sum = {};
  int64_t c = 0;
  for (; c + kLanes<T> <= count; c += kLanes<T>) sum += load_as<T>(left + c) * load(right + c);
  if (c < count) sum += load_first_as<T>(left + c, count - c) * load_first(right + c, count - c);
  return sum;
}

// Accumulates number * coefficient and number * derivative over pairs; each pair's number is given
// as one partial sum per lane.
template <typename T, int kDims>
struct PairSums {
  Vec<T> by_coefficient = {};
  Vec<T> by_derivative[kDims] = {};
  void add(const Pairs<T>& pairs, int i, Vec<T> number) {
    by_coefficient += pairs.coefficients[i] * number;
    for (int d = 0; d < kDims; ++d) by_derivative[d] += pairs.derivatives[d][i] * number;
  }
};

}  // namespace kpdeform::KPDEFORM_ISA
