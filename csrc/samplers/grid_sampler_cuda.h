// The grid sampler on CUDA: the four pixels around the position of a tap. Contract:
// deform_conv2d.h.
#pragma once

#include "base/cuda.h"
#include "samplers/grid_math.h"
#include "samplers/sampler_cuda.h"

namespace kpdeform {

// The plain view: a site is an output pixel, and its sources are the four corners of a tap.
template <typename Number>
struct GridSampler {
  using T = Number;
  static constexpr int kDims = 2;
  static constexpr bool kSharesSources = false;

  const T* offsets;  // (M, OG, K, 2)
  const T* mask;     // (M, OG, K) or null
  int height, width, out_height, out_width, kernel_width;
  int stride[2], before[2], dilation[2];  // y, x
  int num_kernel_points, groups;
  int dim;  // 2

  struct Source {
    uint32_t corner;
  };
  // The position of a tap: its cell, its position in the cell, and the first row of the image.
  struct Place {
    bool inside;
    int top, left;
    T down, right;
    int64_t first_row;
  };
  struct Coefficient {
    T value;
    uint32_t row;
    T derivative[kDims];
  };

  __device__ int64_t num_sources(int64_t, int) const { return 4; }
  __device__ Source source(int64_t, int64_t i, int) const { return {uint32_t(i)}; }

  __device__ int64_t tap(int64_t site, int k, int group) const {
    return (site * groups + group) * num_kernel_points + k;
  }

  __device__ Place place(int64_t site, int k, int group) const {
    const unsigned line = unsigned(site) / unsigned(out_width);  // sites are 32-bit numbers
    const unsigned image = line / unsigned(out_height);
    const int oy = int(line - image * out_height), ox = int(unsigned(site) - line * out_width);
    const int i = k / kernel_width, j = k - i * kernel_width;
    const int64_t at = tap(site, k, group);
    const T y =
        T(int64_t(oy) * stride[0] - before[0]) + T(int64_t(i) * dilation[0]) + offsets[2 * at];
    const T x =
        T(int64_t(ox) * stride[1] - before[1]) + T(int64_t(j) * dilation[1]) + offsets[2 * at + 1];
    const T top = std::floor(y), left = std::floor(x);
    Place place{};
    place.inside = top >= T(-1) && top < T(height) && left >= T(-1) && left < T(width);
    if (!place.inside) return place;  // also taken for NaN
    place.top = int(top);
    place.left = int(left);
    place.down = y - top;
    place.right = x - left;
    place.first_row = int64_t(image) * height * width;
    return place;
  }

  template <bool kDerivative>
  __device__ Coefficient coefficient(const Place& place, const Source& source, int, int) const {
    Coefficient a{};
    a.row = kNoRow;
    const bool below = (source.corner & 2) != 0, behind = (source.corner & 1) != 0;
    const int y = place.top + below, x = place.left + behind;
    if (!place.inside || y < 0 || y >= height || x < 0 || x >= width) return a;
    const Corner<T> corner = bilinear_corner(below, behind, place.down, place.right);
    a.row = uint32_t(place.first_row + int64_t(y) * width + x);
    a.value = corner.weight;
    a.derivative[0] = corner.derivative[0];
    a.derivative[1] = corner.derivative[1];
    return a;
  }

  __device__ T modulation(int64_t site, int k, int group) const {
    return mask == nullptr ? T(1) : mask[tap(site, k, group)];
  }
  __device__ T site_factor(int64_t site, int k, int group) const {
    return modulation(site, k, group);
  }
  __device__ int64_t modulation_place(int64_t site, int k, int group, int) const {
    return tap(site, k, group);
  }
};

// The transposed view: a site is a pixel of the input, and its sources are the corners of taps, of
// one group, that sample it. Its members are the numbers (site of the plain view * K + tap) * 4 +
// corner, ascending.
template <typename Number>
struct GridTableSampler {
  using T = Number;
  static constexpr int kDims = 2;
  static constexpr bool kSharesSources = false;

  GridSampler<T> plain;
  const int64_t* starts;  // (rows * OG + 1,)
  const uint32_t* members;
  int num_kernel_points, groups, dim;

  struct Source {
    T value;
    uint32_t row;
    int32_t k;
  };
  struct Place {};
  using Coefficient = typename GridSampler<T>::Coefficient;

  __device__ int64_t num_sources(int64_t site, int group) const {
    const int64_t at = site * groups + group;
    return starts[at + 1] - starts[at];
  }
  __device__ Source source(int64_t site, int64_t i, int group) const {
    const uint32_t number = members[starts[site * groups + group] + i];
    const uint32_t tap = number >> 2, row = tap / unsigned(num_kernel_points);
    const int k = int(tap - row * num_kernel_points);
    const auto a =
        plain.template coefficient<false>(plain.place(row, k, group), {number & 3}, k, group);
    return {a.value * plain.modulation(row, k, group), row, k};
  }
  __device__ Place place(int64_t, int, int) const { return {}; }

  template <bool kDerivative>
  __device__ Coefficient coefficient(const Place&, const Source& source, int k, int) const {
    Coefficient a{};
    a.row = source.k == k ? source.row : kNoRow;
    a.value = source.value;
    return a;
  }
  __device__ T site_factor(int64_t, int, int) const { return T(1); }
};
static_assert(CudaSampler<GridSampler<float>> && CudaSampler<GridTableSampler<float>>);

}  // namespace kpdeform
