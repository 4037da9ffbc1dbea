// The grid view of tensors on the CPU, checked. Contract: deform_conv2d.h.
#pragma once

#include <limits>
#include <vector>

#include "sampling/tensors_cpu.h"

namespace kpdeform {

struct GridInputs {
  Tensor input, offset;
  MaybeTensor mask;
  std::vector<int64_t> stride, padding, dilation;
  int64_t kernel_height, kernel_width;

  GridInputs(const Tensor& input_, const Tensor& offset_, const Tensor& weight,
             const MaybeTensor& mask_, std::vector<int64_t> stride_, std::vector<int64_t> padding_,
             std::vector<int64_t> dilation_)
      : stride(std::move(stride_)), padding(std::move(padding_)), dilation(std::move(dilation_)) {
    KPDEFORM_CHECK(input_.dim() == 4, "input must be (B, H, W, C)");
    KPDEFORM_CHECK(weight.dim() >= 2 && weight.size(0) > 0 && weight.size(1) > 0,
                   "weight must begin with kh, kw");
    kernel_height = weight.size(0);
    kernel_width = weight.size(1);
    KPDEFORM_CHECK(in_range(stride, 2, 1) && in_range(dilation, 2, 1) && in_range(padding, 4, 0),
                   "stride and dilation must be two numbers >= 1, padding four numbers >= 0");
    check_coordinates(input_, offset_, mask_);
    KPDEFORM_CHECK(
        weight.scalar_type() == input_.scalar_type() && weight.get_device() == input_.get_device(),
        "weight must have the dtype and device of input");
    KPDEFORM_CHECK(rows(input_) <= kMostRows && rows(offset_) <= kMostRows,
                   "more than 4294967295 pixels in one call");
    input = torch::stable::contiguous(input_);
    offset = torch::stable::contiguous(offset_);
    mask = contiguous(mask_);
  }

  template <typename T>
  GridView<T> view() const {
    GridView<T> view{};
    view.images = input.size(0);
    view.height = input.size(1);
    view.width = input.size(2);
    view.out_height = offset.size(1);
    view.out_width = offset.size(2);
    view.kernel_width = kernel_width;
    for (int d = 0; d < 2; ++d) {
      view.stride[d] = stride[d];
      view.before[d] = padding[d];
      view.dilation[d] = dilation[d];
    }
    view.offsets = data<T>(offset);
    view.modulations = data<T>(mask);
    view.offset_groups = view.modulation_groups = offset.size(3);
    view.num_kernel_points = int(offset.size(4));
    return view;
  }

  int64_t channels() const { return input.size(3); }
  int64_t num_kernel_points() const { return kernel_height * kernel_width; }

  void check_gradient(const Tensor& grad, int64_t channels) const {
    KPDEFORM_CHECK(grad.dim() == 4 && grad.size(0) == offset.size(0) &&
                       grad.size(1) == offset.size(1) && grad.size(2) == offset.size(2) &&
                       grad.size(3) == channels && grad.scalar_type() == input.scalar_type() &&
                       grad.get_device() == input.get_device(),
                   "grad must have the shape, dtype and device of the result");
  }

 private:
  static constexpr int64_t kMostRows = 4294967295;  // rows are 32-bit numbers in the engine

  static int64_t rows(const Tensor& image) { return image.size(0) * image.size(1) * image.size(2); }

  static bool in_range(const std::vector<int64_t>& numbers, size_t count, int64_t least) {
    bool fine = numbers.size() == count;
    for (int64_t number : numbers)
      fine = fine && number >= least && number <= std::numeric_limits<int32_t>::max();
    return fine;
  }

  int64_t output_size(int64_t size, int64_t kernel, int d) const {
    const int64_t left = size + padding[d] + padding[d + 2] - dilation[d] * (kernel - 1) - 1;
    return left < 0 ? 0 : left / stride[d] + 1;
  }

  void check_coordinates(const Tensor& image, const Tensor& at, const MaybeTensor& scale) const {
    const ScalarType dtype = image.scalar_type();
    KPDEFORM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                       dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                   "input must be float32, float64, float16 or bfloat16");
    const ScalarType position = dtype == ScalarType::Double ? dtype : ScalarType::Float;
    KPDEFORM_CHECK(
        at.dim() == 6 && at.size(0) == image.size(0) &&
            at.size(1) == output_size(image.size(1), kernel_height, 0) &&
            at.size(2) == output_size(image.size(2), kernel_width, 1) && at.size(3) > 0 &&
            image.size(3) % at.size(3) == 0 && at.size(4) == kernel_height * kernel_width &&
            at.size(5) == 2 && at.scalar_type() == position &&
            at.get_device() == image.get_device(),
        "offset must be (B, oh, ow, OG, K, 2), float64 for float64 input, else float32; OG must "
        "divide the channels");
    if (!scale.has_value()) return;
    bool fine = scale->dim() == 5 && scale->scalar_type() == position &&
                scale->get_device() == image.get_device();
    for (int d = 0; fine && d < 5; ++d) fine = scale->size(d) == at.size(d);
    KPDEFORM_CHECK(fine, "mask must be (B, oh, ow, OG, K) of the dtype of offset");
  }
};

}  // namespace kpdeform
