// The boxes sampler on CUDA: the samples of a bin, four pixels each. Contract: deform_roi_pool.h.
#pragma once

#include "base/cuda.h"
#include "samplers/boxes_math.h"
#include "samplers/sampler_cuda.h"

namespace kpdeform {

// A site is a bin of a box; it has one kernel point.
template <typename P_>
struct BoxesSampler {
  using P = P_;
  static constexpr int kDim = 2;
  static constexpr int num_kernel_points = 1;
  static constexpr int dim = 2;

  const P* boxes;   // (R, 5)
  const P* shifts;  // (R, ph, pw, OG, 2) or null
  int images, size[2], cells[2], bins[2], groups;
  int64_t samples;
  PoolingRule rule;

  // The samples of one side of a bin that may be inside the image, and how many count in the mean.
  struct Axis {
    P start, step, counted;
    int64_t first, count;
  };
  struct Source {
    P value;
    uint32_t row;
    P slope[kDim];
  };
  struct Place {};
  struct Coefficient {
    P value;
    uint32_t row;
    P slope[kDim];
  };

  __device__ bool is_inside(P position, int d) const {
    const bool aligned = rule == kAligned;
    const P low = aligned ? P(-1) : P(-0.5), high = P(size[d]) + (aligned ? P(0) : P(-0.5));
    return position >= low && position <= high;
  }

  __device__ Axis axis(int64_t site, int group, int d) const {
    const int64_t line = site / bins[1], r = line / bins[0];
    const int64_t bin = d == 0 ? line - r * bins[0] : site - line * bins[1];
    const P* box = boxes + r * 5;
    const bool aligned = rule == kAligned;
    const P width = box[3 + d] / P(bins[d]);
    P number = samples > 0 ? P(samples) : std::ceil(width);
    if (!(number > P(0))) number = 0;
    const P shift = shifts == nullptr ? P(0) : shifts[(site * groups + group) * 2 + d];
    Axis axis{};
    axis.step = width / number;
    axis.start = box[1 + d] + P(bin) * width + shift + (aligned ? axis.step / 2 : P(0));
    axis.counted = aligned ? number : P(0);
    const bool finite = axis.step - axis.step == P(0) && axis.start - axis.start == P(0);
    if (!finite || !(box[0] >= P(0) && box[0] < P(images))) return axis;
    const P low = aligned ? P(-1) : P(-0.5), high = P(size[d]) + (aligned ? P(0) : P(-0.5));
    double first = 0, last = double(number);
    if (axis.step > P(0)) {  // few are left, however large the box
      const double from = std::floor(double((low - axis.start) / axis.step) - 1);
      const double to = double((high - axis.start) / axis.step) + 2;
      first = from > first ? from : first;
      last = to < last ? to : last;
    }
    axis.first = int64_t(first);
    axis.count = last > first ? int64_t(std::ceil(last - first)) : 0;
    for (int64_t s = 0; s < axis.count && !aligned; ++s)
      axis.counted += P(is_inside(position(axis, s), d));
    return axis;
  }
  __device__ P position(const Axis& axis, int64_t s) const {
    return axis.start + P(axis.first + s) * axis.step;
  }

  __device__ int64_t num_sources(int64_t site, int group) const {
    return 4 * axis(site, group, 0).count * axis(site, group, 1).count;
  }

  // Corner i % 4 of sample i / 4.
  __device__ Source source(int64_t site, int64_t i, int group) const {
    const Axis axes[2] = {axis(site, group, 0), axis(site, group, 1)};
    const int64_t sample = i / 4;
    const int64_t number[2] = {sample / axes[1].count, sample % axes[1].count};
    const P counted = axes[0].counted * axes[1].counted;
    const P share = counted > P(0) ? P(1) / counted : P(0);
    Source source{};
    source.row = kNoRow;
    int64_t pixel[2];
    P weight[2], slope[2];
    bool any = true;
#pragma unroll
    for (int d = 0; d < 2; ++d) {
      const P at = position(axes[d], number[d]), end = P(size[d] - 1);
      const bool next = (i >> (1 - d) & 1) != 0;
      any &= is_inside(at, d);
      const bool moves = at >= P(0) && at < end;
      const P held = moves ? at : at < P(0) ? P(0) : end;
      const P rest = held - std::floor(held);
      any &= moves || !next;
      pixel[d] = int64_t(any ? held : P(0)) + next;
      weight[d] = next ? rest : P(1) - rest;
      slope[d] = moves ? (next ? P(1) : P(-1)) : P(0);
    }
    if (!any) return source;
    const int64_t line = site / bins[1], r = line / bins[0];
    const int64_t bin[2] = {line - r * bins[0], site - line * bins[1]};
    int64_t row = (int64_t(boxes[r * 5]) * size[0] + pixel[0]) * size[1] + pixel[1];
    for (int d = 0; d < 2; ++d) row = row * cells[d] + bin[d] * cells[d] / bins[d];
    source.row = uint32_t(row);
    source.value = share * weight[0] * weight[1];
    source.slope[0] = share * slope[0] * weight[1];
    source.slope[1] = share * weight[0] * slope[1];
    return source;
  }

  __device__ Place place(int64_t, int, int) const { return {}; }
  template <bool kWithSlope>
  __device__ Coefficient coefficient(const Place&, const Source& source, int, int) const {
    return {source.value, source.row, {source.slope[0], source.slope[1]}};
  }
  __device__ P site_factor(int64_t, int, int) const { return P(1); }
  __device__ int64_t modulation_place(int64_t, int, int, int) const { return 0; }
};

// Entries (site, coefficient) listed by the row and group that they fall on.
template <typename P_>
struct EntriesSampler {
  using P = P_;
  static constexpr int kDim = 2;
  static constexpr int num_kernel_points = 1;
  static constexpr int dim = 2;

  const int64_t* starts;  // (rows * groups + 1,)
  const uint32_t* members;
  const uint32_t* sites;
  const P* values;
  int groups;

  using Source = typename BoxesSampler<P>::Source;
  using Place = typename BoxesSampler<P>::Place;
  using Coefficient = typename BoxesSampler<P>::Coefficient;

  __device__ int64_t num_sources(int64_t site, int group) const {
    const int64_t at = site * groups + group;
    return starts[at + 1] - starts[at];
  }
  __device__ Source source(int64_t site, int64_t i, int group) const {
    const uint32_t entry = members[starts[site * groups + group] + i];
    return {values[entry], sites[entry], {}};
  }
  __device__ Place place(int64_t, int, int) const { return {}; }
  template <bool kWithSlope>
  __device__ Coefficient coefficient(const Place&, const Source& source, int, int) const {
    return {source.value, source.row, {}};
  }
  __device__ P site_factor(int64_t, int, int) const { return P(1); }
};

}  // namespace kpdeform
