// kpconv on CUDA. Contract: kpconv.h. Kernels: engine_cuda.h; products: dense_cuda.h.
#include <tuple>

#include "engine/dense_cuda.h"
#include "kpconv/points_inputs_cuda.h"

namespace kpdeform {
namespace {

DenseShape make_shape(const PointsInputs& in, const MaybeTensor& offsets,
                      const MaybeTensor& modulations, const Tensor& features, const Tensor& weight,
                      int64_t groups) {
  check_channels(features, in.points, offsets, modulations);
  check_dense(features, in.kernel_points, weight, groups);
  return {in.num_kernel_points(), features.size(1), weight.size(2), groups};
}

Tensor forward(const OnDevice& device, const PointsInputs& in, const DenseShape& shape,
               const Tensor& features, const Tensor& weight) {
  if (in.num_queries() == 0 || shape.in_channels == 0 || shape.out_channels == 0)
    return torch::stable::new_zeros(features, {in.num_queries(), shape.out_channels});
  return dispatch_elements(features, [&](auto number, auto element) {
    return Dense<PointsInputs, decltype(number), decltype(element)>(
               device, in, shape, torch::stable::contiguous(features),
               torch::stable::contiguous(weight))
        .forward();
  });
}

Tensor kpconv(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
              const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
              double sigma, MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
              int64_t aggregation, int64_t groups) {
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  const DenseShape shape = make_shape(in, offsets, modulations, features, weight, groups);
  return forward(device, in, shape, features, weight);
}

std::tuple<Tensor, Tensor> kpconv_with_distances(const Tensor& queries, const Tensor& points,
                                                 const Tensor& neighbors, const Tensor& features,
                                                 const Tensor& kernel_points, const Tensor& weight,
                                                 double sigma, MaybeTensor offsets,
                                                 MaybeTensor modulations, int64_t influence,
                                                 int64_t aggregation, int64_t groups) {
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  const DenseShape shape = make_shape(in, offsets, modulations, features, weight, groups);
  return {forward(device, in, shape, features, weight), distances_of(device, in, offsets)};
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

FourTensors kpconv_backward(const Tensor& grad, const Tensor& queries, const Tensor& points,
                            const Tensor& neighbors, const Tensor& features,
                            const Tensor& kernel_points, const Tensor& weight, double sigma,
                            MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
                            int64_t aggregation, int64_t groups, MaybeTensor starts,
                            MaybeTensor members, bool features_wanted, bool weight_wanted,
                            bool offsets_wanted, bool modulations_wanted) {
  using torch::stable::contiguous;
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  const DenseShape shape = make_shape(in, offsets, modulations, features, weight, groups);
  check_gradient(grad, features, in.num_queries(), shape.out_channels);
  offsets_wanted = offsets_wanted && offsets.has_value();
  modulations_wanted = modulations_wanted && modulations.has_value();
  const Tensor none = torch::stable::new_empty(features, {0});
  const Tensor none_of_sites = torch::stable::new_empty(queries, {0});
  if (in.num_queries() == 0 || in.num_points() == 0 || shape.in_channels == 0 ||
      shape.out_channels == 0) {
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
    const Dense<PointsInputs, T, decltype(element)> dense(device, in, shape, contiguous(features),
                                                          contiguous(weight));
    FourTensors grads{none, none, none_of_sites, none_of_sites};
    if (features_wanted)
      std::get<0>(grads) =
          dense.features_gradient(upstream, transposed_table(device, in, starts, members));
    if (weight_wanted) std::get<1>(grads) = dense.weight_gradient(upstream);
    if (offsets_wanted || modulations_wanted)
      std::tie(std::get<2>(grads), std::get<3>(grads)) =
          site_gradients<T>(in, offsets, modulations, offsets_wanted, modulations_wanted,
                            [&](T* of_offsets, T* of_modulations) {
                              dense.site_gradients(upstream, of_offsets, of_modulations);
                            });
    return grads;
  });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
  m.impl("kpconv_with_distances", TORCH_BOX(&kpconv_with_distances));
  m.impl("kpconv_backward", TORCH_BOX(&kpconv_backward));
}

}  // namespace kpdeform
