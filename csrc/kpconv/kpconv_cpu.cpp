// kpconv, its distances and transposed neighbour tables on the CPU. Contract: kpconv.h.
#include <tuple>

#include "engine/dense_cpu.h"
#include "kpconv/points_cpu.h"

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

Tensor distances_like(const PointsInputs& in) {
  const int64_t queries = in.queries.size(0), kernels = in.kernel_points.size(0);
  if (in.offsets.has_value() && in.offsets->dim() == 4)
    return torch::stable::new_empty(in.queries, {queries, in.offsets->size(1), kernels});
  return torch::stable::new_empty(in.queries, {queries, kernels});
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
    const Tensor w = compute_copy(weight, in.queries.scalar_type());
    const Scratch<T> packed = pack_forward(shape, data<T>(w));
    convolve(view, shape, data<F>(x), packed.get(), mutable_data<F>(out), 0, view.num_queries);
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

// Calls body(view, begin, end, workspace) on all threads.
template <typename T, typename Body>
void for_each_query(const PointsInputs& in, const Body& body) {
  const PointsView<T> view = in.view<T>();
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view);
  parallel_chunks(view.num_queries, kGrain, [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    body(view, begin, end, workspace.get());
  });
}

Tensor distances_of(const PointsInputs& in) {
  const Tensor out = distances_like(in);
  const auto run = [&](auto number) {
    using T = decltype(number);
    for_each_query<T>(in, [&](PointsView<T> view, int64_t begin, int64_t end, char* workspace) {
      view.distances = mutable_data<T>(out);
      KPDEFORM_DISPATCH(min_squared_distances, view, begin, end, workspace);
    });
  };
  in.queries.scalar_type() == ScalarType::Double ? run(double()) : run(float());
  return out;
}

Tensor kernel_point_distances(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                              const Tensor& kernel_points, MaybeTensor offsets) {
  return distances_of(PointsInputs(queries, points, neighbors, kernel_points, 1.0, offsets,
                                   std::nullopt, kLinear, kSum));
}

std::tuple<Tensor, Tensor> kpconv_with_distances(const Tensor& queries, const Tensor& points,
                                                 const Tensor& neighbors, const Tensor& features,
                                                 const Tensor& kernel_points, const Tensor& weight,
                                                 double sigma, MaybeTensor offsets,
                                                 MaybeTensor modulations, int64_t influence,
                                                 int64_t aggregation, int64_t groups) {
  const PointsInputs in(queries, points, neighbors, kernel_points, sigma, offsets, modulations,
                        influence, aggregation);
  if (features.numel() == 0 || weight.numel() == 0)  // nothing is sampled, so nothing left
    return {forward(in, features, weight, groups, std::nullopt), distances_of(in)};
  const Tensor distances = distances_like(in);
  return {forward(in, features, weight, groups, distances), distances};
}

Tensor kernel_point_distances_backward(const Tensor& grad, const Tensor& queries,
                                       const Tensor& points, const Tensor& neighbors,
                                       const Tensor& kernel_points, const Tensor& offsets) {
  const PointsInputs in(queries, points, neighbors, kernel_points, 1.0, offsets, std::nullopt,
                        kLinear, kSum);
  KPDEFORM_CHECK(grad.numel() * kernel_points.size(1) == offsets.numel() &&
                     grad.scalar_type() == queries.scalar_type(),
                 "grad must be (M, K) or (M, G, K) of the positions' dtype");
  const Tensor out = torch::stable::new_zeros(in.queries, in.offsets->sizes());
  const Tensor g = torch::stable::contiguous(grad);
  const auto run = [&](auto number) {
    using T = decltype(number);
    for_each_query<T>(in, [&](const auto& view, int64_t begin, int64_t end, char* workspace) {
      KPDEFORM_DISPATCH(min_squared_distances_backward, view, data<T>(g), begin, end,
                        mutable_data<T>(out), workspace);
    });
  };
  queries.scalar_type() == ScalarType::Double ? run(double()) : run(float());
  return out;
}

std::tuple<Tensor, Tensor> transpose_neighbors(const Tensor& neighbors, int64_t num_points) {
  KPDEFORM_CHECK(neighbors.dim() == 2 && (neighbors.scalar_type() == ScalarType::Int ||
                                          neighbors.scalar_type() == ScalarType::Long),
                 "neighbors must be (M, H) int32 or int64");
  KPDEFORM_CHECK(num_points >= 0, "num_points must not be negative, got ", num_points);
  const Tensor table = torch::stable::contiguous(neighbors);
  const int64_t num_queries = table.size(0), width = table.size(1);
  const bool wide = num_queries > std::numeric_limits<int32_t>::max();
  const Tensor starts = torch::stable::new_empty(table, {num_points + 1}, ScalarType::Long);
  const Tensor members = torch::stable::new_empty(table, {num_queries * width},
                                                  wide ? ScalarType::Long : ScalarType::Int);
  int64_t* first = mutable_data<int64_t>(starts);
  const Scratch<int64_t> next(num_points);
  dispatch_index(table, [&](const auto* index) {
    count_queries(index, num_queries, width, num_points, first);
    const auto list = [&](auto* target) {
      list_queries(index, num_queries, width, 0, num_points, first, next.get(), target);
      std::fill(target + first[num_points], target + num_queries * width, -1);
    };
    wide ? list(mutable_data<int64_t>(members)) : list(mutable_data<int32_t>(members));
  });
  return {starts, members};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
  m.impl("kpconv_with_distances", TORCH_BOX(&kpconv_with_distances));
  m.impl("kpconv_backward", TORCH_BOX(&kpconv_backward));
  m.impl("kernel_point_distances", TORCH_BOX(&kernel_point_distances));
  m.impl("kernel_point_distances_backward", TORCH_BOX(&kernel_point_distances_backward));
  m.impl("transpose_neighbors", TORCH_BOX(&transpose_neighbors));
}

}  // namespace kpdeform
