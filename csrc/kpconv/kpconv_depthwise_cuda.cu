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

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

FourTensors kpconv_depthwise_backward(const Tensor& grad, const Tensor& queries,
                                      const Tensor& points, const Tensor& neighbors,
                                      const Tensor& features, const Tensor& kernel_points,
                                      const Tensor& weight, double sigma, MaybeTensor offsets,
                                      MaybeTensor modulations, int64_t influence,
                                      int64_t aggregation, MaybeTensor starts, MaybeTensor members,
                                      bool features_wanted, bool weight_wanted, bool offsets_wanted,
                                      bool modulations_wanted) {
  using torch::stable::contiguous;
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  check_channels(features, points, offsets, modulations);
  check_depthwise(features, kernel_points, weight);
  check_gradient(grad, features, in.num_queries(), features.size(1));
  offsets_wanted = offsets_wanted && offsets.has_value();
  modulations_wanted = modulations_wanted && modulations.has_value();
  const Tensor none = torch::stable::new_empty(features, {0});
  const Tensor none_of_sites = torch::stable::new_empty(queries, {0});
  if (in.num_queries() == 0 || in.num_points() == 0 || features.size(1) == 0) {
    const auto zeros = [](bool wanted, const Tensor& none, const MaybeTensor& like) {
      return wanted ? torch::stable::new_zeros(none, like->sizes()) : none;
    };
    return {zeros(features_wanted, none, features), zeros(weight_wanted, none, weight),
            zeros(offsets_wanted, none_of_sites, offsets),
            zeros(modulations_wanted, none_of_sites, modulations)};
  }
  return dispatch_elements(features, [&](auto number, auto element) -> FourTensors {
    using T = decltype(number);
    const Tensor upstream = contiguous(grad);
    const Depthwise<PointsInputs, T, decltype(element)> depthwise(device, in, contiguous(features),
                                                                  contiguous(weight));
    FourTensors grads{none, none, none_of_sites, none_of_sites};
    if (features_wanted)
      std::get<0>(grads) =
          depthwise.features_gradient(upstream, transposed_table(device, in, starts, members));
    if (weight_wanted) std::get<1>(grads) = depthwise.weight_gradient(upstream);
    if (offsets_wanted || modulations_wanted)
      std::tie(std::get<2>(grads), std::get<3>(grads)) =
          site_gradients<T>(in, offsets, modulations, offsets_wanted, modulations_wanted,
                            [&](T* of_offsets, T* of_modulations) {
                              depthwise.site_gradients(upstream, of_offsets, of_modulations);
                            });
    return grads;
  });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kpconv_depthwise", TORCH_BOX(&kpconv_depthwise));
  m.impl("kpconv_depthwise_backward", TORCH_BOX(&kpconv_depthwise_backward));
}

}  // namespace kpdeform
