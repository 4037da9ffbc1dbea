// deform_conv2d on the CPU. Contract: deform_conv2d.h.
#include <tuple>

#include "deform/grid_inputs_cpu.h"
#include "engine/dense_cpu.h"
#include "engine/table_cpu.h"

namespace kpdeform {
namespace {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Numbers = std::vector<int64_t>;

DenseShape make_shape(const GridInputs& in, const Tensor& weight) {
  const int64_t channels = in.channels();
  KPDEFORM_CHECK(weight.dim() == 4 && weight.size(2) > 0 && channels % weight.size(2) == 0 &&
                     channels > 0 && weight.size(3) % (channels / weight.size(2)) == 0,
                 "weight must be (kh, kw, C/groups, O)");
  const int64_t outputs = weight.size(3), groups = channels / weight.size(2);
  return {in.num_kernel_points(), channels, outputs, groups, channels, outputs};
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight,
                     MaybeTensor mask, Numbers stride, Numbers padding, Numbers dilation) {
  const GridInputs in(input, offset, weight, mask, stride, padding, dilation);
  const DenseShape shape = make_shape(in, weight);
  const Tensor out = torch::stable::new_empty(
      in.input, {offset.size(0), offset.size(1), offset.size(2), shape.out_channels});
  if (shape.empty()) return out;
  const ScalarType dtype = offset.scalar_type();
  dispatch_elements(dtype, input.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    const GridView<T> view = in.view<T>();
    convolve(view, shape, data<F>(in.input), weight, mutable_data<F>(out), view.num_sites());
  });
  return out;
}

FourTensors deform_conv2d_backward(const Tensor& grad, const Tensor& input, const Tensor& offset,
                                   const Tensor& weight, MaybeTensor mask, Numbers stride,
                                   Numbers padding, Numbers dilation, bool input_wanted,
                                   bool offset_wanted, bool weight_wanted, bool mask_wanted) {
  const GridInputs in(input, offset, weight, mask, stride, padding, dilation);
  const DenseShape shape = make_shape(in, weight);
  check_result_gradient(grad, in.input, in.offset, shape.out_channels);
  const ScalarType dtype = offset.scalar_type();
  const Tensor g = torch::stable::contiguous(grad), w = compute_copy(weight, dtype);
  const Tensor grad_input = gradient_of(input_wanted, in.input, in.input);
  const Tensor grad_offset = gradient_of(offset_wanted, in.offset, in.offset);
  const Tensor grad_weight = gradient_of(weight_wanted, w, w);
  const Tensor grad_mask = gradient_of(mask_wanted, in.mask, in.offset);
  dispatch_elements(dtype, input.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    if (shape.empty()) return;
    const GridView<T> view = in.view<T>();
    if (input_wanted)
      for_each_table(view, false, [&](const TableView<T>& table, int64_t first, int64_t last) {
        features_backward(table, shape, data<F>(g), data<T>(w), mutable_data<F>(grad_input), first,
                          last);
      });
    const SiteGradients<T> sites{gradient_data<T>(grad_offset), gradient_data<T>(grad_mask)};
    if (weight_wanted || sites.any())
      sites_backward(view, view.num_sites(), shape, data<F>(in.input), data<F>(g), data<T>(w),
                     gradient_data<T>(grad_weight), sites);
  });
  return {grad_input, grad_offset, compute_copy(grad_weight, weight.scalar_type()), grad_mask};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&deform_conv2d_backward));
}

}  // namespace kpdeform
