// kpconv_depthwise on CUDA. Contract: kpconv.h. Kernels: engine_cuda.h; launches: depthwise_cuda.h.
#include <tuple>

#include "engine/depthwise_cuda.h"
#include "kpconv/points_inputs_cuda.h"

namespace kpdeform {
namespace {

Tensor kpconv_depthwise(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                        const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
                        double sigma, MaybeTensor offsets, MaybeTensor modulations,
                        int64_t influence, int64_t aggregation) {
  using torch::stable::contiguous;
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  check_channels(features, points, offsets, modulations);
  check_depthwise(features, kernel_points, weight);
  if (in.num_queries() == 0 || features.size(1) == 0)
    return torch::stable::new_zeros(features, {in.num_queries(), features.size(1)});
  return dispatch_elements(features, [&](auto number, auto element) {
    return Depthwise<PointsInputs, decltype(number), decltype(element)>(
               device, in, contiguous(features), contiguous(weight))
        .forward();
  });
}

FourTensors kpconv_depthwise_backward(const Tensor& grad, const Tensor& queries,
                                      const Tensor& points, const Tensor& neighbors,
                                      const Tensor& features, const Tensor& kernel_points,
                                      const Tensor& weight, double sigma, MaybeTensor offsets,
                                      MaybeTensor modulations, int64_t influence,
                                      int64_t aggregation, MaybeTensor starts, MaybeTensor members,
                                      bool features_wanted, bool weight_wanted, bool offsets_wanted,
                                      bool modulations_wanted) {
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  check_channels(features, points, offsets, modulations);
  check_depthwise(features, kernel_points, weight);
  check_gradient(grad, features, in.num_queries(), features.size(1));
  return convolution_gradients(
      device, in, grad, features, weight, offsets, modulations, starts, members,
      {features_wanted, weight_wanted, offsets_wanted, modulations_wanted},
      in.num_queries() == 0 || in.num_points() == 0 || features.size(1) == 0,
      [&](auto number, auto element) {
        return Depthwise<PointsInputs, decltype(number), decltype(element)>(
            device, in, torch::stable::contiguous(features), torch::stable::contiguous(weight));
      });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kpconv_depthwise", TORCH_BOX(&kpconv_depthwise));
  m.impl("kpconv_depthwise_backward", TORCH_BOX(&kpconv_depthwise_backward));
}

}  // namespace kpdeform
