// deform_conv2d_depthwise on the CPU. Contract: deform_conv2d.h.
#include <tuple>

#include "deform/grid_inputs_cpu.h"
#include "engine/depthwise_cpu.h"
#include "engine/table_cpu.h"

namespace kpdeform {
namespace {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Numbers = std::vector<int64_t>;

void check_weight(const GridInputs& in, const Tensor& weight) {
  KPDEFORM_CHECK(weight.dim() == 3 && weight.size(2) == in.channels(),
                 "weight must be (kh, kw, C)");
}

Tensor deform_conv2d_depthwise(const Tensor& input, const Tensor& offset, const Tensor& weight,
                               MaybeTensor mask, Numbers stride, Numbers padding,
                               Numbers dilation) {
  const GridInputs in(input, offset, weight, mask, stride, padding, dilation);
  check_weight(in, weight);
  const Tensor out = torch::stable::new_empty(
      in.input, {offset.size(0), offset.size(1), offset.size(2), in.channels()});
  const ScalarType dtype = offset.scalar_type();
  dispatch_elements(dtype, input.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    const GridView<T> view = in.view<T>();
    const Tensor w = compute_copy(weight, dtype);
    if (in.channels() == 0) return;
    convolve_depthwise(view, in.channels(), data<F>(in.input), data<T>(w), mutable_data<F>(out), 0,
                       view.num_sites());
  });
  return out;
}

FourTensors deform_conv2d_depthwise_backward(const Tensor& grad, const Tensor& input,
                                             const Tensor& offset, const Tensor& weight,
                                             MaybeTensor mask, Numbers stride, Numbers padding,
                                             Numbers dilation, bool input_wanted,
                                             bool offset_wanted, bool weight_wanted,
                                             bool mask_wanted) {
  const GridInputs in(input, offset, weight, mask, stride, padding, dilation);
  check_weight(in, weight);
  const int64_t channels = in.channels();
  check_result_gradient(grad, in.input, in.offset, channels);
  const ScalarType dtype = offset.scalar_type();
  const Tensor g = torch::stable::contiguous(grad), w = compute_copy(weight, dtype);
  const Tensor grad_input = gradient_of(input_wanted, in.input, in.input);
  const Tensor grad_offset = gradient_of(offset_wanted, in.offset, in.offset);
  const Tensor grad_weight = gradient_of(weight_wanted, w, w);
  const Tensor grad_mask = gradient_of(mask_wanted, in.mask, in.offset);
  dispatch_elements(dtype, input.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    if (channels == 0) return;
    const GridView<T> view = in.view<T>();
    if (input_wanted)
      for_each_table(view, true, [&](const TableView<T>& table, int64_t first, int64_t last) {
        convolve_depthwise(table, channels, data<F>(g), data<T>(w), mutable_data<F>(grad_input),
                           first, last);
      });
    const SiteGradients<T> sites{gradient_data<T>(grad_offset), gradient_data<T>(grad_mask)};
    if (weight_wanted || sites.any())
      sites_backward_depthwise(view, view.num_sites(), channels, data<F>(in.input), data<F>(g),
                               data<T>(w), gradient_data<T>(grad_weight), sites);
  });
  return {grad_input, grad_offset, compute_copy(grad_weight, weight.scalar_type()), grad_mask};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("deform_conv2d_depthwise", TORCH_BOX(&deform_conv2d_depthwise));
  m.impl("deform_conv2d_depthwise_backward", TORCH_BOX(&deform_conv2d_depthwise_backward));
}

}  // namespace kpdeform
