// The formulas of sections 1 and 2 of deform/deform_roi_pool.h along one axis of a bin, shared by
// host and device.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/host_device.h"

namespace kpdeform {

enum PoolingRule { kAligned = 0, kPositionSensitive = 1 };

// The number of samples of a bin of `size` pixels: `samples`, or one per pixel, rounded up, if that
// is 0.
template <typename T>
KPDEFORM_HD T samples_of_bin(T size, int64_t samples) {
  const T number = samples > 0 ? T(samples) : std::ceil(size);
  return number > T(0) ? number : T(0);
}

// The range of positions, both ends included, that count as inside an axis of `size` pixels.
template <typename T>
struct SampleBounds {
  T low, high;
  KPDEFORM_HD bool contain(T position) const { return position >= low && position <= high; }
};
template <typename T>
KPDEFORM_HD SampleBounds<T> sample_bounds(PoolingRule rule, int64_t size) {
  if (rule == kAligned) return {T(-1), T(size)};
  return {T(-0.5), T(size) + T(-0.5)};
}

// The range, from `first` to below `last`, of the numbers s of samples that may be inside the
// image. Sample s, for s = 0, 1, ..., samples - 1, is at start + s * step. A division gives the
// range, so even huge boxes have few candidates to visit.
struct SampleRange {
  double first, last;
};
template <typename T>
KPDEFORM_HD SampleRange samples_inside(T start, T step, T samples, const SampleBounds<T>& bounds) {
  SampleRange range{0, double(samples)};
  if (!(step > T(0))) return range;
  const double from = std::floor(double((bounds.low - start) / step) - 1);
  const double to = double((bounds.high - start) / step) + 2;
  if (from > range.first) range.first = from;
  if (to < range.last) range.last = to;
  return range;
}

// A position clamped to [0, size - 1]. `moves` tells whether it lies in [0, size - 1) and so was
// not clamped; only then the sample has a next pixel and a nonzero derivative.
template <typename T>
struct HeldPosition {
  T position;
  bool moves;
};
template <typename T>
KPDEFORM_HD HeldPosition<T> hold(T position, int64_t size) {
  const T end = T(size - 1);
  const bool moves = position >= T(0) && position < end;
  return {moves ? position : position < T(0) ? T(0) : end, moves};
}

}  // namespace kpdeform
