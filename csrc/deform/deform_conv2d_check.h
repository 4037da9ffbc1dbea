// Checks that keep deform_conv2d memory-safe on every device: they refuse whatever a kernel could
// not handle. kpdeform/ops/deform_conv2d.py has the error messages for users; those here are for
// callers that bypass it.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "base/common.h"

namespace kpdeform {

// How a kernel of taps moves over an image. Padding: top, left, bottom, right.
struct GridWalk {
  std::vector<int64_t> stride, padding, dilation;
  int64_t kernel_height = 0, kernel_width = 0;

  int64_t output_size(int64_t size, int64_t kernel, int d) const {
    const int64_t left = size + padding[d] + padding[d + 2] - dilation[d] * (kernel - 1) - 1;
    return left < 0 ? 0 : left / stride[d] + 1;
  }
};

inline void check_walk(const GridWalk& walk) {
  const auto in_range = [](const std::vector<int64_t>& numbers, size_t count, int64_t least) {
    bool fine = numbers.size() == count;
    for (int64_t number : numbers)
      fine = fine && number >= least && number <= std::numeric_limits<int32_t>::max();
    return fine;
  };
  KPDEFORM_CHECK(
      in_range(walk.stride, 2, 1) && in_range(walk.dilation, 2, 1) && in_range(walk.padding, 4, 0),
      "stride and dilation must be two numbers >= 1, padding four numbers >= 0");
}

inline void check_taps(const GridWalk& walk, const Tensor& input, const Tensor& offset,
                       const std::optional<Tensor>& mask) {
  const ScalarType dtype = input.scalar_type();
  KPDEFORM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                     dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                 "input must be float32, float64, float16 or bfloat16");
  const ScalarType position = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  KPDEFORM_CHECK(
      offset.dim() == 6 && offset.size(0) == input.size(0) &&
          offset.size(1) == walk.output_size(input.size(1), walk.kernel_height, 0) &&
          offset.size(2) == walk.output_size(input.size(2), walk.kernel_width, 1) &&
          offset.size(3) > 0 && input.size(3) % offset.size(3) == 0 &&
          offset.size(4) == walk.kernel_height * walk.kernel_width && offset.size(5) == 2 &&
          offset.scalar_type() == position && offset.get_device() == input.get_device(),
      "offset must be (B, oh, ow, OG, K, 2), float64 for float64 input, else float32; OG must "
      "divide the channels");
  if (!mask.has_value()) return;
  bool fine = mask->dim() == 5 && mask->scalar_type() == position &&
              mask->get_device() == input.get_device();
  for (int d = 0; fine && d < 5; ++d) fine = mask->size(d) == offset.size(d);
  KPDEFORM_CHECK(fine, "mask must be (B, oh, ow, OG, K) of the dtype of offset");
}

inline void check_result_gradient(const Tensor& grad, const Tensor& input, const Tensor& offset,
                                  int64_t channels) {
  KPDEFORM_CHECK(grad.dim() == 4 && grad.size(0) == offset.size(0) &&
                     grad.size(1) == offset.size(1) && grad.size(2) == offset.size(2) &&
                     grad.size(3) == channels && grad.scalar_type() == input.scalar_type() &&
                     grad.get_device() == input.get_device(),
                 "grad must have the shape, dtype and device of the result");
}

}  // namespace kpdeform
