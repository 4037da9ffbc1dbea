// kernel_point_distances on the CPU. Contract: kpconv.h section 7.
#include "kpconv/kernel_point_distances_cpu.h"

#include "engine/dense_cpu.h"

namespace kpdeform {
namespace {

// Calls body(view, begin, end, workspace) for ranges of queries, on all threads.
template <typename T, typename Body>
void for_each_query(const PointsInputs& in, const Body& body) {
  const PointsView<T> view = in.view<T>();
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view);
  parallel_chunks(view.num_queries, kGrain, [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    body(view, begin, end, workspace.get());
  });
}

}  // namespace

Tensor distances_like(const PointsInputs& in) {
  const int64_t queries = in.queries.size(0), kernels = in.kernel_points.size(0);
  if (in.offsets.has_value() && in.offsets->dim() == 4)
    return torch::stable::new_empty(in.queries, {queries, in.offsets->size(1), kernels});
  return torch::stable::new_empty(in.queries, {queries, kernels});
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

namespace {

Tensor kernel_point_distances(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                              const Tensor& kernel_points, MaybeTensor offsets) {
  return distances_of(PointsInputs(queries, points, neighbors, kernel_points, 1.0, offsets,
                                   std::nullopt, kLinear, kSum));
}

Tensor kernel_point_distances_backward(const Tensor& grad, const Tensor& queries,
                                       const Tensor& points, const Tensor& neighbors,
                                       const Tensor& kernel_points, const Tensor& offsets) {
  const PointsInputs in(queries, points, neighbors, kernel_points, 1.0, offsets, std::nullopt,
                        kLinear, kSum);
  check_distances_gradient(grad, offsets);
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("kernel_point_distances", TORCH_BOX(&kernel_point_distances));
  m.impl("kernel_point_distances_backward", TORCH_BOX(&kernel_point_distances_backward));
}

}  // namespace kpdeform
