// kpconv_depthwise on the CPU. Contract: kpconv.h.
#include <tuple>

#include "engine/depthwise_cpu.h"
#include "kpconv/points_inputs_cpu.h"

namespace kpdeform {
namespace {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

void check(const Tensor& features, const PointsInputs& in, const Tensor& weight) {
  check_channels(features, in.points, in.offsets, in.modulations);
  check_depthwise(features, in.kernel_points, weight);
}

Tensor kpconv_depthwise(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                        const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
                        double sigma, MaybeTensor offsets, MaybeTensor modulations,
                        int64_t influence, int64_t aggregation) {
  const PointsInputs in(queries, points, neighbors, kernel_points, sigma, offsets, modulations,
                        influence, aggregation);
  check(features, in, weight);
  const Tensor x = torch::stable::contiguous(features);
  const Tensor out = torch::stable::new_empty(x, {queries.size(0), x.size(1)});
  if (x.size(1) == 0) return out;
  dispatch_elements(queries.scalar_type(), x.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    const Tensor w = compute_copy(weight, queries.scalar_type());
    convolve_depthwise(in.view<T>(), x.size(1), data<F>(x), data<T>(w), mutable_data<F>(out), 0,
                       queries.size(0));
  });
  return out;
}

FourTensors kpconv_depthwise_backward(const Tensor& grad, const Tensor& queries,
                                      const Tensor& points, const Tensor& neighbors,
                                      const Tensor& features, const Tensor& kernel_points,
                                      const Tensor& weight, double sigma, MaybeTensor offsets,
                                      MaybeTensor modulations, int64_t influence,
                                      int64_t aggregation, MaybeTensor starts, MaybeTensor members,
                                      bool features_wanted, bool weight_wanted, bool offsets_wanted,
                                      bool modulations_wanted) {
  const PointsInputs in(queries, points, neighbors, kernel_points, sigma, offsets, modulations,
                        influence, aggregation);
  check(features, in, weight);
  const int64_t channels = features.size(1);
  check_gradient(grad, features, queries.size(0), channels);
  const ScalarType dtype = queries.scalar_type();
  const Tensor x = torch::stable::contiguous(features), g = torch::stable::contiguous(grad),
               w = compute_copy(weight, dtype);
  const Tensor grad_features = gradient_of(features_wanted, x, x);
  const Tensor grad_weight = gradient_of(weight_wanted, w, w);
  const Tensor grad_offsets = gradient_of(offsets_wanted, in.offsets, in.queries);
  const Tensor grad_modulations = gradient_of(modulations_wanted, in.modulations, in.queries);
  dispatch_elements(dtype, x.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    const PointsView<T> view = in.view<T>();
    if (channels == 0) return;
    if (features_wanted)
      for_each_transposed(view, in.neighbors, starts, members,
                          [&](const PointsView<T>& swapped, int64_t first, int64_t last) {
                            convolve_depthwise(swapped, channels, data<F>(g), data<T>(w),
                                               mutable_data<F>(grad_features), first, last);
                          });
    const SiteGradients<T> sites{gradient_data<T>(grad_offsets),
                                 gradient_data<T>(grad_modulations)};
    if (weight_wanted || sites.any())
      sites_backward_depthwise(view, view.num_queries, channels, data<F>(x), data<F>(g), data<T>(w),
                               gradient_data<T>(grad_weight), sites);
  });
  return {grad_features, compute_copy(grad_weight, weight.scalar_type()), grad_offsets,
          grad_modulations};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("kpconv_depthwise", TORCH_BOX(&kpconv_depthwise));
  m.impl("kpconv_depthwise_backward", TORCH_BOX(&kpconv_depthwise_backward));
}

}  // namespace kpdeform
