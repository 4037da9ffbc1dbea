// kernel_point_distances on CUDA. Contract: kpconv.h section 7. One thread per (query, group,
// kernel point); the threads of a query read the same neighbours. Bound: instructions, M*H*K
// distances.
#include <limits>

#include "kpconv/points_inputs_cuda.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;

// The neighbour nearest to kernel point k of a query, the first one if several are equally near;
// zeros if no neighbour is at a finite distance.
template <typename T>
struct Nearest {
  T squared;
  T vector[PointsSampler<T>::kDims];
};

// The nearest source of kernel point i, where i counts over (M, OG, K).
template <typename T>
__device__ Nearest<T> nearest_source(const PointsSampler<T>& sampler, int64_t i) {
  const int k = int(i % sampler.num_kernel_points);
  const int64_t set = i / sampler.num_kernel_points;
  const int64_t site = set / sampler.offset_groups;
  const int group = int(set - site * sampler.offset_groups);
  const auto place = sampler.place(site, k, group);
  Nearest<T> nearest{};
  T least = std::numeric_limits<T>::infinity();
  for (int64_t h = 0; h < sampler.width; ++h) {
    const auto source = sampler.source(site, h, group);
    if (source.row == kNoRow) continue;
    T vector[PointsSampler<T>::kDims];
    const T squared = sampler.difference(place, source, k, group, vector);
    if (!(squared < least)) continue;  // also skips NaN
    nearest.squared = least = squared;
#pragma unroll
    for (int d = 0; d < PointsSampler<T>::kDims; ++d) nearest.vector[d] = vector[d];
  }
  return nearest;
}

template <typename T>
__global__ void distances_kernel(const PointsSampler<T> sampler, int64_t count, T* out) {
  for (int64_t i = global_thread(); i < count; i += num_threads_of_grid())
    out[i] = nearest_source(sampler, i).squared;
}

template <typename T>
__global__ void distances_backward_kernel(const PointsSampler<T> sampler, int64_t count,
                                          const T* grad, T* grad_offsets) {
  for (int64_t i = global_thread(); i < count; i += num_threads_of_grid()) {
    const auto nearest = nearest_source(sampler, i);
#pragma unroll
    for (int d = 0; d < PointsSampler<T>::kDims; ++d)
      if (d < sampler.dim) grad_offsets[i * sampler.dim + d] = T(-2) * grad[i] * nearest.vector[d];
  }
}

template <typename Body>
void with_positions(const Tensor& queries, const Body& body) {
  queries.scalar_type() == ScalarType::Double ? body(double{}) : body(float{});
}

Tensor kernel_point_distances(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                              const Tensor& kernel_points, MaybeTensor offsets) {
  const OnDevice device(queries);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, 1.0,
                                             offsets, std::nullopt, kLinear, kSum);
  return distances_of(device, in, offsets);
}

Tensor kernel_point_distances_backward(const Tensor& grad, const Tensor& queries,
                                       const Tensor& points, const Tensor& neighbors,
                                       const Tensor& kernel_points, const Tensor& offsets) {
  const OnDevice device(queries);
  const PointsInputs in = make_points_inputs(queries, points, neighbors, kernel_points, 1.0,
                                             offsets, std::nullopt, kLinear, kSum);
  const int64_t count = grad.numel();
  check_distances_gradient(grad, offsets);
  const Tensor upstream = torch::stable::contiguous(grad);
  const Tensor out = torch::stable::new_empty(queries, offsets.sizes());
  with_positions(queries, [&](auto number) {
    using T = decltype(number);
    device.launch(distances_backward_kernel<T>, divide_up(count, kBlock), kBlock,
                  in.sampler<T>(nullptr), count, data<T>(upstream), mutable_data<T>(out));
  });
  return out;
}

}  // namespace

Tensor distances_of(const OnDevice& device, const PointsInputs& in, const MaybeTensor& offsets) {
  const int64_t count = in.num_queries() * in.offset_groups() * in.num_kernel_points();
  const bool grouped = offsets.has_value() && offsets->dim() == 4;
  const Tensor out =
      grouped ? torch::stable::new_empty(
                    in.queries, {in.num_queries(), in.offset_groups(), in.num_kernel_points()})
              : torch::stable::new_empty(in.queries, {in.num_queries(), in.num_kernel_points()});
  with_positions(in.queries, [&](auto number) {
    using T = decltype(number);
    device.launch(distances_kernel<T>, divide_up(count, kBlock), kBlock, in.sampler<T>(nullptr),
                  count, mutable_data<T>(out));
  });
  return out;
}

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kernel_point_distances", TORCH_BOX(&kernel_point_distances));
  m.impl("kernel_point_distances_backward", TORCH_BOX(&kernel_point_distances_backward));
}

}  // namespace kpdeform
