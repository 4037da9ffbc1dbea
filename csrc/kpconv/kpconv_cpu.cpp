// kpconv on the CPU. Contract: kpconv.h.
#include <tuple>

#include "engine/dense_cpu.h"
#include "kpconv/kernel_point_distances_cpu.h"
#include "kpconv/points_inputs_cpu.h"

namespace kpdeform {
namespace {

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

DenseShape make_shape(const Tensor& features, const PointsInputs& in, const Tensor& weight,
                      int64_t groups) {
  check_channels(features, in.points, in.offsets, in.modulations);
  check_dense(features, in.kernel_points, weight, groups);
  const int64_t channels = features.size(1), outputs = weight.size(2);
  return {in.kernel_points.size(0), channels, outputs, groups, channels, outputs};
}

Tensor forward(const PointsInputs& in, const Tensor& features, const Tensor& weight, int64_t groups,
               const MaybeTensor& distances) {
  const DenseShape shape = make_shape(features, in, weight, groups);
  const Tensor x = torch::stable::contiguous(features);
  const Tensor out = torch::stable::new_zeros(x, {in.queries.size(0), shape.out_channels});
  if (shape.empty()) return out;
  dispatch_elements(in.queries.scalar_type(), x.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    PointsView<T> view = in.view<T>();
    if (distances.has_value()) view.distances = mutable_data<T>(*distances);
    convolve(view, shape, data<F>(x), weight, mutable_data<F>(out), view.num_queries);
  });
  return out;
}

Tensor kpconv(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
              const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
              double sigma, MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
              int64_t aggregation, int64_t groups) {
  const PointsInputs in(queries, points, neighbors, kernel_points, sigma, offsets, modulations,
                        influence, aggregation);
  return forward(in, features, weight, groups, std::nullopt);
}

FourTensors kpconv_backward(const Tensor& grad, const Tensor& queries, const Tensor& points,
                            const Tensor& neighbors, const Tensor& features,
                            const Tensor& kernel_points, const Tensor& weight, double sigma,
                            MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
                            int64_t aggregation, int64_t groups, MaybeTensor starts,
                            MaybeTensor members, bool features_wanted, bool weight_wanted,
                            bool offsets_wanted, bool modulations_wanted) {
  const PointsInputs in(queries, points, neighbors, kernel_points, sigma, offsets, modulations,
                        influence, aggregation);
  const DenseShape shape = make_shape(features, in, weight, groups);
  check_gradient(grad, features, queries.size(0), shape.out_channels);
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
    if (shape.empty()) return;
    if (features_wanted)
      for_each_transposed(view, in.neighbors, starts, members,
                          [&](const PointsView<T>& swapped, int64_t first, int64_t last) {
                            features_backward(swapped, shape, data<F>(g), data<T>(w),
                                              mutable_data<F>(grad_features), first, last);
                          });
    const SiteGradients<T> sites{gradient_data<T>(grad_offsets),
                                 gradient_data<T>(grad_modulations)};
    if (weight_wanted || sites.any())
      sites_backward(view, view.num_queries, shape, data<F>(x), data<F>(g), data<T>(w),
                     gradient_data<T>(grad_weight), sites);
  });
  return {grad_features, compute_copy(grad_weight, weight.scalar_type()), grad_offsets,
          grad_modulations};
}

std::tuple<Tensor, Tensor> kpconv_with_distances(const Tensor& queries, const Tensor& points,
                                                 const Tensor& neighbors, const Tensor& features,
                                                 const Tensor& kernel_points, const Tensor& weight,
                                                 double sigma, MaybeTensor offsets,
                                                 MaybeTensor modulations, int64_t influence,
                                                 int64_t aggregation, int64_t groups) {
  const PointsInputs in(queries, points, neighbors, kernel_points, sigma, offsets, modulations,
                        influence, aggregation);
  if (features.numel() == 0 || weight.numel() == 0)  // forward() then writes no distances
    return {forward(in, features, weight, groups, std::nullopt), distances_of(in)};
  const Tensor distances = distances_like(in);
  return {forward(in, features, weight, groups, distances), distances};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
  m.impl("kpconv_with_distances", TORCH_BOX(&kpconv_with_distances));
  m.impl("kpconv_backward", TORCH_BOX(&kpconv_backward));
}

}  // namespace kpdeform
