// deformation_loss and its gradient on CUDA. Contract: deformation_loss.h. A thread takes kernel
// point i, which it compares with the other points of its set, and distance i. The loss takes two
// launches: one sum per block, then the sum of those. No atomics. Bound: arithmetic, K * K distances
// per set.
#include <tuple>

#include "base/cuda.h"
#include "losses/deformation_loss.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kMostParts = 1024;

template <typename T>
struct Loss {
  const T *points, *distances;
  int64_t num_points, num_distances;
  int64_t kernels;  // kernel points per set
  T inverse_sigma, extent;
  double fitting, repulsion;

  __host__ __device__ int64_t items() const {
    return num_points > num_distances ? num_points : num_distances;
  }
};

// Calls each(gap, difference, distance) for kernel point i and every other one of its set.
template <int kDims, typename T, typename Each>
__device__ void for_each_other(const Loss<T>& loss, int64_t i, const Each& each) {
  const int64_t first = i / loss.kernels * loss.kernels;
  T own[kDims];
#pragma unroll
  for (int d = 0; d < kDims; ++d) own[d] = loss.points[i * kDims + d];
  for (int64_t j = first; j < first + loss.kernels; ++j) {
    if (j == i) continue;
    T difference[kDims], distance;
    const T gap = gap_of<kDims>(own, loss.points + j * kDims, loss.inverse_sigma, loss.extent,
                                difference, distance);
    each(gap, difference, distance);
  }
}

// Part b of `parts` is what the items of block b add to the loss.
template <typename T, int kDims>
__global__ void loss_kernel(const Loss<T> loss, int64_t num_parts, double* parts) {
  const int64_t size = (loss.items() + num_parts - 1) / num_parts;
  for (int64_t part = blockIdx.x; part < num_parts; part += gridDim.x) {
    const int64_t end = (part + 1) * size < loss.items() ? (part + 1) * size : loss.items();
    double overlap = 0, fit = 0;
    for (int64_t i = part * size + threadIdx.x; i < end; i += blockDim.x) {
      T sum = 0;
      if (i < loss.num_points)
        for_each_other<kDims>(loss, i, [&](T gap, const T*, T) { sum += gap * gap; });
      overlap += double(sum);
      if (i < loss.num_distances) fit += double(loss.distances[i]);
    }
    const double sum =
        sum_of_warps(LaneGroup<32>().sum(loss.fitting * fit + loss.repulsion * overlap));
    if (threadIdx.x == 0) parts[part] = sum;
  }
}

// One block: the sum of all parts.
template <typename T>
__global__ void total_kernel(const double* parts, int64_t num_parts, T* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < num_parts; i += blockDim.x) sum += parts[i];
  sum = sum_of_warps(LaneGroup<32>().sum(sum));
  if (threadIdx.x == 0) *out = T(sum);
}

// Gradients that are not wanted are null.
template <typename T, int kDims>
__global__ void loss_backward_kernel(const Loss<T> loss, const T* grad, T* of_points,
                                     T* of_distances) {
  const double upstream = double(*grad);
  const T factor = T(upstream * loss.repulsion * double(loss.inverse_sigma));
  for (int64_t i = global_thread(); i < loss.items(); i += num_threads_of_grid()) {
    if (of_points != nullptr && i < loss.num_points) {
      T sum[kDims] = {};
      for_each_other<kDims>(loss, i, [&](T gap, const T* difference, T distance) {
        if (gap == 0 || distance == 0) return;
        const T slope = 2 * factor * gap / distance;
#pragma unroll
        for (int d = 0; d < kDims; ++d) sum[d] += slope * difference[d];
      });
#pragma unroll
      for (int d = 0; d < kDims; ++d) of_points[i * kDims + d] = sum[d];
    }
    if (of_distances != nullptr && i < loss.num_distances)
      of_distances[i] = T(upstream * loss.fitting);
  }
}

// Calls body(loss, dims) with the number type and the number of dimensions.
template <typename Body>
void with_loss(const Tensor& points, const Tensor& distances, const LossWeights& weights,
               const Body& body) {
  const auto run = [&](auto number) {
    using T = decltype(number);
    const Loss<T> loss{data<T>(points),
                       data<T>(distances),
                       count_points(points),
                       distances.numel(),
                       points.size(points.dim() - 2),
                       T(weights.inverse_sigma),
                       T(weights.extent),
                       weights.fitting,
                       weights.repulsion};
    if (points.size(points.dim() - 1) == 2)
      body(loss, std::integral_constant<int, 2>());
    else
      body(loss, std::integral_constant<int, 3>());
  };
  points.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

Tensor deformation_loss(const Tensor& kernel_points, const Tensor& distances, double sigma,
                        double fitting, double repulsion, double extent) {
  check_deformation_loss(kernel_points, distances, sigma);
  const OnDevice device(kernel_points);
  const Tensor points = torch::stable::contiguous(kernel_points);
  const Tensor squares = torch::stable::contiguous(distances);
  const Tensor out = torch::stable::new_empty(kernel_points, {});
  const LossWeights weights =
      weights_of(kernel_points, distances, sigma, fitting, repulsion, extent);
  with_loss(points, squares, weights, [&](const auto& loss, auto dims) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(loss.points)>>;
    const int64_t num_parts = std::min(kMostParts, divide_up(loss.items(), kBlock));
    const Tensor parts = torch::stable::new_empty(kernel_points, {num_parts}, ScalarType::Double);
    device.launch(loss_kernel<T, dims()>, OnDevice::Grid{num_parts}, kBlock, kSharedOfWarps, loss,
                  num_parts, mutable_data<double>(parts));
    device.launch(total_kernel<T>, OnDevice::Grid{1}, kBlock, kSharedOfWarps, data<double>(parts),
                  num_parts, mutable_data<T>(out));
  });
  return out;
}

std::tuple<Tensor, Tensor> deformation_loss_backward(
    const Tensor& grad, const Tensor& kernel_points, const Tensor& distances, double sigma,
    double fitting, double repulsion, double extent, bool points_wanted, bool distances_wanted) {
  check_deformation_loss(kernel_points, distances, sigma);
  check_deformation_gradient(grad, kernel_points);
  const OnDevice device(kernel_points);
  const Tensor points = torch::stable::contiguous(kernel_points);
  const auto gradient_of = [&](bool wanted, const Tensor& tensor) {
    return wanted ? torch::stable::new_empty(kernel_points, tensor.sizes())
                  : torch::stable::new_empty(kernel_points, {0});
  };
  const Tensor of_points = gradient_of(points_wanted, kernel_points);
  const Tensor of_distances = gradient_of(distances_wanted, distances);
  const LossWeights weights =
      weights_of(kernel_points, distances, sigma, fitting, repulsion, extent);
  with_loss(points, distances, weights, [&](const auto& loss, auto dims) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(loss.points)>>;
    device.launch(loss_backward_kernel<T, dims()>, divide_up(loss.items(), kBlock), kBlock, loss,
                  data<T>(grad), points_wanted ? mutable_data<T>(of_points) : nullptr,
                  distances_wanted ? mutable_data<T>(of_distances) : nullptr);
  });
  return {of_points, of_distances};
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("deformation_loss", TORCH_BOX(&deformation_loss));
  m.impl("deformation_loss_backward", TORCH_BOX(&deformation_loss_backward));
}

}  // namespace kpdeform
