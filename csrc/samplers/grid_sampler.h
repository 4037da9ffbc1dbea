// The grid sampler: it lists the pixels that a tap of an output pixel samples, and their
// coefficients. Contract: deform_conv2d.h sections 1-3.
#pragma once

#include <cstdint>

#include "samplers/grid_math.h"
#include "samplers/sampler.h"
#include "samplers/views.h"

namespace kpdeform::KPDEFORM_ISA {

template <typename T>
class GridSampler {
 public:
  static constexpr int kDims = 2;

  GridSampler(const GridView<T>& view, bool, char* workspace)
      : view_(view), numbers_(2 * view.num_kernel_points) {
    carve(workspace);
    if (workspace == nullptr) return;
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      taps_[2 * k] = T(k / view_.kernel_width * view_.dilation[0]);
      taps_[2 * k + 1] = T(k % view_.kernel_width * view_.dilation[1]);
    }
  }

  static int64_t bytes(const GridView<T>& view) { return GridSampler(view, false, nullptr).used_; }

  int64_t open(int64_t site, int64_t) {
    site_ = site;
    const int64_t line = site / view_.out_width, image = line / view_.out_height;
    first_row_ = image * view_.height * view_.width;
    const T y = T((line - image * view_.out_height) * view_.stride[0] - view_.before[0]);
    const T x = T((site - line * view_.out_width) * view_.stride[1] - view_.before[1]);
    for (int i = 0; i < numbers_; i += 2) {
      undeformed_[i] = taps_[i] + y;
      undeformed_[i + 1] = taps_[i + 1] + x;
    }
    return 0;
  }

  Pairs<T> list(int64_t g) { return list_corners<false>(g); }
  Pairs<T> list_derivatives(int64_t g) { return list_corners<true>(g); }

 private:
  void carve(char* workspace) {
    Carver carver(workspace);
    taps_ = carver.template take<T>(numbers_);
    undeformed_ = carver.template take<T>(numbers_);
    positions_ = carver.template take<T>(numbers_);
    corners_ = carver.template take<T>(numbers_);
    begins_ = carver.template take<int32_t>(view_.num_kernel_points + 1);
    const int64_t pairs = 4 * int64_t(view_.num_kernel_points) + 1;
    kernels_ = carver.template take<int32_t>(pairs);
    rows_ = carver.template take<uint32_t>(pairs);
    coefficients_ = carver.template take<T>(pairs);
    modulated_ = carver.template take<T>(pairs);
    for (T*& component : derivatives_) component = carver.template take<T>(pairs);
    used_ = carver.used();
  }

  template <bool kDerivatives>
  Pairs<T> list_corners(int64_t g) {
    const T* offsets = view_.offsets + view_.offset_index(site_, g, 0, 0);
    const T* modulations = view_.modulations == nullptr
                               ? nullptr
                               : view_.modulations + view_.modulation_index(site_, g, 0);
    for (int i = 0; i < numbers_; ++i) {
      positions_[i] = undeformed_[i] + offsets[i];
      corners_[i] = __builtin_floor(positions_[i]);
    }
    const T height = T(view_.height), width = T(view_.width);
    count_ = 0;
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      begins_[k] = count_;
      const T top = corners_[2 * k], left = corners_[2 * k + 1];
      if (!(top >= T(-1) && top < height && left >= T(-1) && left < width)) continue;
      const T down = positions_[2 * k] - top, right = positions_[2 * k + 1] - left;
      const int64_t y = int64_t(top), x = int64_t(left), row = first_row_ + y * view_.width + x;
      const bool above = y >= 0, below = y + 1 < view_.height;
      const bool before = x >= 0, behind = x + 1 < view_.width;
      const T modulation = modulations == nullptr ? T(1) : modulations[k];
      const auto add = [&](bool there, int64_t pixel, bool is_below, bool is_behind) {
        const Corner<T> corner = bilinear_corner(is_below, is_behind, down, right);
        kernels_[count_] = k;
        rows_[count_] = uint32_t(pixel);
        coefficients_[count_] = corner.weight;
        modulated_[count_] = modulation * corner.weight;
        if (kDerivatives) derivatives_[0][count_] = corner.derivative[0];
        if (kDerivatives) derivatives_[1][count_] = corner.derivative[1];
        count_ += there;
      };
      add(above && before, row, false, false);
      add(above && behind, row + 1, false, true);
      add(below && before, row + view_.width, true, false);
      add(below && behind, row + view_.width + 1, true, true);
    }
    begins_[view_.num_kernel_points] = count_;
    return {count_,
            begins_,
            kernels_,
            rows_,
            coefficients_,
            modulated_,
            {derivatives_[0], derivatives_[1], nullptr}};
  }

  const GridView<T>& view_;
  const int numbers_;  // number of coordinates: y and x of every tap
  int64_t site_ = 0, first_row_ = 0, used_ = 0;
  int count_ = 0;
  T* taps_;                     // y and x of every tap relative to tap 0
  T* undeformed_;               // positions of the taps at the site, without offsets
  T* positions_;                // positions of the taps at the site, with offsets
  T* corners_;                  // positions rounded down: pixel (y0, x0)
  int32_t *begins_, *kernels_;  // see Pairs; so are the members that follow
  uint32_t* rows_;
  T *coefficients_, *modulated_, *derivatives_[2];
};

}  // namespace kpdeform::KPDEFORM_ISA
