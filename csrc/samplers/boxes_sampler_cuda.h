// The boxes sampler on CUDA: each sample of a bin contributes four pixels. Contract:
// deform_roi_pool.h.
#pragma once

#include "base/cuda.h"
#include "samplers/boxes_math.h"
#include "samplers/sampler_cuda.h"

namespace kpdeform {

// A site is a bin of a box; it has one kernel point.
template <typename Number>
struct BoxesSampler {
  using T = Number;
  static constexpr int kDims = 2;
  static constexpr bool kSharesSources = false;
  static constexpr int num_kernel_points = 1;
  static constexpr int dim = 2;

  const T* boxes;   // (R, 5)
  const T* shifts;  // (R, ph, pw, OG, 2) or null
  int images, size[2], cells[2], bins[2], groups;
  int64_t samples;
  PoolingRule rule;

  // The samples along one axis of a bin that may be inside the image, and how many count in the
  // mean.
  struct Axis {
    T start, step, counted;
    int64_t first, count;
  };
  struct Source {
    T value;
    uint32_t row;
    T derivative[kDims];
  };
  struct Place {};
  struct Coefficient {
    T value;
    uint32_t row;
    T derivative[kDims];
  };

  __device__ Axis axis(int64_t site, int group, int d) const {
    const int64_t line = site / bins[1], r = line / bins[0];
    const int64_t bin = d == 0 ? line - r * bins[0] : site - line * bins[1];
    const T* box = boxes + r * 5;
    const bool aligned = rule == kAligned;
    const T width = box[3 + d] / T(bins[d]);
    const T number = samples_of_bin(width, samples);
    const T shift = shifts == nullptr ? T(0) : shifts[(site * groups + group) * 2 + d];
    Axis axis{};
    axis.step = width / number;
    axis.start = box[1 + d] + T(bin) * width + shift + (aligned ? axis.step / 2 : T(0));
    axis.counted = aligned ? number : T(0);
    const bool finite = axis.step - axis.step == T(0) && axis.start - axis.start == T(0);
    if (!finite || !(box[0] >= T(0) && box[0] < T(images))) return axis;
    const SampleBounds<T> bounds = sample_bounds<T>(rule, size[d]);
    const SampleRange range = samples_inside(axis.start, axis.step, number, bounds);
    axis.first = int64_t(range.first);
    axis.count = range.last > range.first ? int64_t(std::ceil(range.last - range.first)) : 0;
    for (int64_t s = 0; s < axis.count && !aligned; ++s)
      axis.counted += T(bounds.contain(position(axis, s)));
    return axis;
  }
  __device__ T position(const Axis& axis, int64_t s) const {
    return axis.start + T(axis.first + s) * axis.step;
  }

  __device__ int64_t num_sources(int64_t site, int group) const {
    return 4 * axis(site, group, 0).count * axis(site, group, 1).count;
  }

  // Source i is corner i % 4 of sample i / 4.
  __device__ Source source(int64_t site, int64_t i, int group) const {
    const Axis axes[2] = {axis(site, group, 0), axis(site, group, 1)};
    const int64_t sample = i / 4;
    const int64_t number[2] = {sample / axes[1].count, sample % axes[1].count};
    const T counted = axes[0].counted * axes[1].counted;
    const T share = counted > T(0) ? T(1) / counted : T(0);
    Source source{};
    source.row = kNoRow;
    int64_t pixel[2];
    T weight[2], derivative[2];
    bool any = true;
#pragma unroll
    for (int d = 0; d < 2; ++d) {
      const T at = position(axes[d], number[d]);
      const bool next = (i >> (1 - d) & 1) != 0;
      any &= sample_bounds<T>(rule, size[d]).contain(at);
      const auto [held, moves] = hold(at, size[d]);
      const T rest = held - std::floor(held);
      any &= moves || !next;
      pixel[d] = int64_t(any ? held : T(0)) + next;
      weight[d] = next ? rest : T(1) - rest;
      derivative[d] = moves ? (next ? T(1) : T(-1)) : T(0);
    }
    if (!any) return source;
    const int64_t line = site / bins[1], r = line / bins[0];
    const int64_t bin[2] = {line - r * bins[0], site - line * bins[1]};
    int64_t row = (int64_t(boxes[r * 5]) * size[0] + pixel[0]) * size[1] + pixel[1];
    for (int d = 0; d < 2; ++d) row = row * cells[d] + bin[d] * cells[d] / bins[d];
    source.row = uint32_t(row);
    source.value = share * weight[0] * weight[1];
    source.derivative[0] = share * derivative[0] * weight[1];
    source.derivative[1] = share * weight[0] * derivative[1];
    return source;
  }

  __device__ Place place(int64_t, int, int) const { return {}; }
  template <bool kDerivative>
  __device__ Coefficient coefficient(const Place&, const Source& source, int, int) const {
    return {source.value, source.row, {source.derivative[0], source.derivative[1]}};
  }
  __device__ T site_factor(int64_t, int, int) const { return T(1); }
  __device__ int64_t modulation_place(int64_t, int, int, int) const { return 0; }
};

// The transposed table: entries (site, coefficient), grouped by the row and group that they belong
// to.
template <typename Number>
struct BoxesTableSampler {
  using T = Number;
  static constexpr int kDims = 2;
  static constexpr bool kSharesSources = false;
  static constexpr int num_kernel_points = 1;
  static constexpr int dim = 2;

  const int64_t* starts;  // (rows * groups + 1,)
  const uint32_t* members;
  const uint32_t* sites;
  const T* values;
  int groups;

  using Source = typename BoxesSampler<T>::Source;
  using Place = typename BoxesSampler<T>::Place;
  using Coefficient = typename BoxesSampler<T>::Coefficient;

  __device__ int64_t num_sources(int64_t site, int group) const {
    const int64_t at = site * groups + group;
    return starts[at + 1] - starts[at];
  }
  __device__ Source source(int64_t site, int64_t i, int group) const {
    const uint32_t entry = members[starts[site * groups + group] + i];
    return {values[entry], sites[entry], {}};
  }
  __device__ Place place(int64_t, int, int) const { return {}; }
  template <bool kDerivative>
  __device__ Coefficient coefficient(const Place&, const Source& source, int, int) const {
    return {source.value, source.row, {}};
  }
  __device__ T site_factor(int64_t, int, int) const { return T(1); }
};
static_assert(CudaSampler<BoxesSampler<float>> && CudaSampler<BoxesTableSampler<float>>);

}  // namespace kpdeform
