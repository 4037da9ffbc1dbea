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
  if (in.num_queries() == 0 || shape.empty())
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

FourTensors kpconv_backward(const Tensor& grad, const Tensor& queries, const Tensor& points,
                            const Tensor& neighbors, const Tensor& features,
                            const Tensor& kernel_points, const Tensor& weight, double sigma,
                            MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
                            int64_t aggregation, int64_t groups, MaybeTensor starts,
                            MaybeTensor members, bool features_wanted, bool weight_wanted,
                            bool offsets_wanted, bool modulations_wanted) {
  const OnDevice device(features);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, sigma,
                                             offsets, modulations, influence, aggregation);
  const DenseShape shape = make_shape(in, offsets, modulations, features, weight, groups);
  check_gradient(grad, features, in.num_queries(), shape.out_channels);
  return convolution_gradients(device, in, grad, features, weight, offsets, modulations, starts,
                               members,
                               {features_wanted, weight_wanted, offsets_wanted, modulations_wanted},
                               in.num_queries() == 0 || in.num_points() == 0 || shape.empty(),
                               [&](auto number, auto element) {
                                 return Dense<PointsInputs, decltype(number), decltype(element)>(
                                     device, in, shape, torch::stable::contiguous(features),
                                     torch::stable::contiguous(weight));
                               });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
  m.impl("kpconv_with_distances", TORCH_BOX(&kpconv_with_distances));
  m.impl("kpconv_backward", TORCH_BOX(&kpconv_backward));
}

}  // namespace kpdeform
