// kernel_point_distances on CUDA. Contract: kpconv.h section 7. One thread per (query, kernel
// point); the threads of a query read the same neighbours. Bound: instructions, M*H*K distances.
#include "kpconv_launch_cuda.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;

// The nearest neighbour of kernel point k of a query, the first of equally near ones.
template <typename P>
struct Nearest {
  bool found;
  P squared;
  P vector[PointsSampler<P>::kDim];
};

template <typename P>
__device__ Nearest<P> nearest_source(const PointsSampler<P>& sampler, int64_t site, int k) {
  const auto place = sampler.place(site, k, 0);
  Nearest<P> nearest{};
  for (int64_t h = 0; h < sampler.width; ++h) {
    const auto source = sampler.source(site, h, 0);
    if (source.row == kNoRow) continue;
    P vector[PointsSampler<P>::kDim];
    const P squared = sampler.difference(place, source, k, 0, vector);
    if (nearest.found && !(squared < nearest.squared)) continue;
    nearest.found = true;
    nearest.squared = squared;
    for (int d = 0; d < PointsSampler<P>::kDim; ++d) nearest.vector[d] = vector[d];
  }
  return nearest;
}

template <typename P>
__global__ void distances_kernel(const PointsSampler<P> sampler, int64_t pairs, P* out) {
  for (int64_t i = global_thread(); i < pairs; i += num_threads_of_grid())
    out[i] =
        nearest_source(sampler, i / sampler.num_kernel_points, int(i % sampler.num_kernel_points))
            .squared;
}

template <typename P>
__global__ void distances_backward_kernel(const PointsSampler<P> sampler, int64_t pairs,
                                          const P* grad, P* grad_offsets) {
  for (int64_t i = global_thread(); i < pairs; i += num_threads_of_grid()) {
    const auto nearest =
        nearest_source(sampler, i / sampler.num_kernel_points, int(i % sampler.num_kernel_points));
    for (int d = 0; d < sampler.dim; ++d)
      grad_offsets[i * sampler.dim + d] = P(-2) * grad[i] * nearest.vector[d];
  }
}

ConvInputs make_inputs(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                       const Tensor& kernel_points, const MaybeTensor& offsets) {
  const ConvInputs in = make_conv_inputs(queries, points, neighbors, kernel_points, 1.0, offsets,
                                         std::nullopt, kLinear, kSum, 1);
  return in;
}

template <typename Body>
Tensor with_positions(const Tensor& queries, const Body& body) {
  return queries.scalar_type() == ScalarType::Double ? body(double{}) : body(float{});
}

Tensor kernel_point_distances(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                              const Tensor& kernel_points, MaybeTensor offsets) {
  const OnDevice device(queries);
  const ConvInputs in = make_inputs(queries, points, neighbors, kernel_points, offsets);
  const int64_t pairs = in.num_queries() * in.num_kernel_points();
  const Tensor out = torch::stable::new_empty(queries, {in.num_queries(), in.num_kernel_points()});
  return with_positions(queries, [&](auto p) {
    using P = decltype(p);
    device.launch(distances_kernel<P>, divide_up(pairs, kBlock), kBlock, make_sampler<P>(in), pairs,
                  mutable_data<P>(out));
    return out;
  });
}

Tensor kernel_point_distances_backward(const Tensor& grad, const Tensor& queries,
                                       const Tensor& points, const Tensor& neighbors,
                                       const Tensor& kernel_points, const Tensor& offsets) {
  const OnDevice device(queries);
  const ConvInputs in = make_inputs(queries, points, neighbors, kernel_points, offsets);
  KPDEFORM_CHECK(grad.dim() == 2 && grad.size(0) == in.num_queries() &&
                     grad.size(1) == in.num_kernel_points() &&
                     grad.scalar_type() == queries.scalar_type() &&
                     grad.get_device() == queries.get_device(),
                 "grad must be (M, K) of the positions' dtype and device");
  const Tensor upstream = torch::stable::contiguous(grad);
  const Tensor out = torch::stable::new_empty(queries, offsets.sizes());
  return with_positions(queries, [&](auto p) {
    using P = decltype(p);
    device.launch(distances_backward_kernel<P>, divide_up(grad.numel(), kBlock), kBlock,
                  make_sampler<P>(in), grad.numel(), data<P>(upstream), mutable_data<P>(out));
    return out;
  });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kernel_point_distances", TORCH_BOX(&kernel_point_distances));
  m.impl("kernel_point_distances_backward", TORCH_BOX(&kernel_point_distances_backward));
}

}  // namespace kpdeform
