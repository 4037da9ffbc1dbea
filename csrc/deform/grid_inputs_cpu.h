// Builds the grid view from tensors on the CPU, which it checks. Contract: deform_conv2d.h.
#pragma once

#include <vector>

#include "base/dispatch_cpu.h"
#include "deform/deform_conv2d_check.h"
#include "samplers/views.h"

namespace kpdeform {

struct GridInputs {
  Tensor input, offset;
  MaybeTensor mask;
  GridWalk walk;

  GridInputs(const Tensor& input_, const Tensor& offset_, const Tensor& weight,
             const MaybeTensor& mask_, std::vector<int64_t> stride_, std::vector<int64_t> padding_,
             std::vector<int64_t> dilation_)
      : walk{std::move(stride_), std::move(padding_), std::move(dilation_)} {
    KPDEFORM_CHECK(input_.dim() == 4, "input must be (B, H, W, C)");
    KPDEFORM_CHECK(weight.dim() >= 2 && weight.size(0) > 0 && weight.size(1) > 0,
                   "weight must begin with kh, kw");
    walk.kernel_height = weight.size(0);
    walk.kernel_width = weight.size(1);
    check_walk(walk);
    check_taps(walk, input_, offset_, mask_);
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
    view.kernel_width = walk.kernel_width;
    for (int d = 0; d < 2; ++d) {
      view.stride[d] = walk.stride[d];
      view.before[d] = walk.padding[d];
      view.dilation[d] = walk.dilation[d];
    }
    view.offsets = data<T>(offset);
    view.modulations = data<T>(mask);
    view.offset_groups = view.modulation_groups = offset.size(3);
    view.num_kernel_points = int(offset.size(4));
    return view;
  }

  int64_t channels() const { return input.size(3); }
  int64_t num_kernel_points() const { return walk.kernel_height * walk.kernel_width; }

 private:
  static constexpr int64_t kMostRows = 4294967295;  // rows are 32-bit numbers in the engine

  static int64_t rows(const Tensor& image) { return image.size(0) * image.size(1) * image.size(2); }
};

}  // namespace kpdeform
