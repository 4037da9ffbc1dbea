// The bilinear weights of section 2 of deform/deform_conv2d.h and their derivatives (section 3),
// shared by host and device.
#pragma once

#include "base/host_device.h"

namespace kpdeform {

// The contribution of one of the four pixels around a sample.
template <typename T>
struct Corner {
  T weight;
  T derivative[2];  // of the weight by the sample's y and x
};

// `below` and `behind` select one of the four pixels: y0 + 1 instead of y0, x0 + 1 instead of x0.
// The sample is at (y0 + down, x0 + right) with 0 <= down, right < 1.
template <typename T>
KPDEFORM_HD Corner<T> bilinear_corner(bool below, bool behind, T down, T right) {
  const T along_y = below ? down : T(1) - down, along_x = behind ? right : T(1) - right;
  return {along_y * along_x, {below ? along_x : -along_x, behind ? along_y : -along_y}};
}

}  // namespace kpdeform
