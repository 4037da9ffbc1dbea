// deformation_loss and its gradient on the CPU. Contract: deformation_loss.h.
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/dispatch_cpu.h"
#include "base/parallel.h"
#include "losses/deformation_loss.h"

namespace kpdeform {
namespace {

constexpr int64_t kBlock = 1024;  // kernel points, or distances, whose terms are one sum

// Calls body(T(), dims) with the number type and the number of dimensions.
template <typename Body>
void with_points(const Tensor& kernel_points, const Body& body) {
  const auto run = [&](auto number) {
    if (kernel_points.size(kernel_points.dim() - 1) == 2)
      body(number, std::integral_constant<int, 2>());
    else
      body(number, std::integral_constant<int, 3>());
  };
  kernel_points.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

// Returns the sum of terms(begin, end) over blocks of `size` out of `count` items.
template <typename Terms>
double sum_of_blocks(int64_t count, int64_t size, const Terms& terms) {
  std::vector<double> parts(num_pieces(count, size));
  parallel_chunks(int64_t(parts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      parts[block] = terms(block * size, std::min(count, (block + 1) * size));
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

// The sum of squared gaps over the ordered pairs of a set of K points.
template <int kDims, typename T>
T overlap_of_set(const T* points, int64_t kernels, T inverse_sigma, T extent) {
  T difference[kDims], distance, sum = 0;
  for (int64_t i = 1; i < kernels; ++i)
    for (int64_t j = 0; j < i; ++j) {
      const T gap = gap_of<kDims>(points + i * kDims, points + j * kDims, inverse_sigma, extent,
                                  difference, distance);
      sum += gap * gap;
    }
  return 2 * sum;
}

// Adds up the gradient of a set, where `factor` is that of a squared gap over sigma.
template <int kDims, typename T>
void move_set(const T* points, int64_t kernels, T inverse_sigma, T extent, T factor, T* gradient) {
  T difference[kDims], distance;
  for (int64_t i = 1; i < kernels; ++i)
    for (int64_t j = 0; j < i; ++j) {
      const T gap = gap_of<kDims>(points + i * kDims, points + j * kDims, inverse_sigma, extent,
                                  difference, distance);
      if (gap == 0 || distance == 0) continue;
      const T slope = 2 * factor * gap / distance;
      for (int d = 0; d < kDims; ++d) {
        gradient[i * kDims + d] += slope * difference[d];
        gradient[j * kDims + d] -= slope * difference[d];
      }
    }
}

// Sets of K points, and how many are one task.
struct Sets {
  int64_t kernels, count, block;
  explicit Sets(const Tensor& kernel_points)
      : kernels(kernel_points.size(kernel_points.dim() - 2)),
        count(kernels == 0 ? 0 : count_points(kernel_points) / kernels),
        block(std::max<int64_t>(1, kBlock / std::max<int64_t>(1, kernels))) {}
};

Tensor deformation_loss(const Tensor& kernel_points, const Tensor& distances, double sigma,
                        double fitting, double repulsion, double extent) {
  check_deformation_loss(kernel_points, distances, sigma);
  const LossWeights weights =
      weights_of(kernel_points, distances, sigma, fitting, repulsion, extent);
  const Sets sets(kernel_points);
  const Tensor points = torch::stable::contiguous(kernel_points);
  const Tensor squares = torch::stable::contiguous(distances);
  const Tensor out = torch::stable::new_empty(kernel_points, {});
  with_points(points, [&](auto number, auto dims) {
    using T = decltype(number);
    const T *p = data<T>(points), *s = data<T>(squares);
    const double overlap = sum_of_blocks(sets.count, sets.block, [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t set = begin; set < end; ++set)
        sum += double(overlap_of_set<dims()>(p + set * sets.kernels * dims(), sets.kernels,
                                             T(weights.inverse_sigma), T(weights.extent)));
      return sum;
    });
    const double fit = sum_of_blocks(squares.numel(), kBlock, [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t i = begin; i < end; ++i) sum += double(s[i]);
      return sum;
    });
    *mutable_data<T>(out) = T(weights.fitting * fit + weights.repulsion * overlap);
  });
  return out;
}

std::tuple<Tensor, Tensor> deformation_loss_backward(
    const Tensor& grad, const Tensor& kernel_points, const Tensor& distances, double sigma,
    double fitting, double repulsion, double extent, bool points_wanted, bool distances_wanted) {
  check_deformation_loss(kernel_points, distances, sigma);
  check_deformation_gradient(grad, kernel_points);
  const LossWeights weights =
      weights_of(kernel_points, distances, sigma, fitting, repulsion, extent);
  const Sets sets(kernel_points);
  const Tensor points = torch::stable::contiguous(kernel_points);
  const Tensor of_points = gradient_of(points_wanted, kernel_points, kernel_points);
  const Tensor of_distances = gradient_of(distances_wanted, distances, kernel_points);
  with_points(points, [&](auto number, auto dims) {
    using T = decltype(number);
    const double upstream = double(*data<T>(grad));
    const T factor = T(upstream * weights.repulsion * weights.inverse_sigma);
    const T* p = data<T>(points);
    T *moves = mutable_data<T>(of_points), *shares = mutable_data<T>(of_distances);
    if (points_wanted)
      parallel_chunks(sets.count, sets.block, [&](int64_t begin, int64_t end) {
        for (int64_t set = begin; set < end; ++set) {
          const int64_t at = set * sets.kernels * dims();
          move_set<dims()>(p + at, sets.kernels, T(weights.inverse_sigma), T(weights.extent),
                           factor, moves + at);
        }
      });
    std::fill_n(shares, of_distances.numel(), T(upstream * weights.fitting));
  });
  return {of_points, of_distances};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("deformation_loss", TORCH_BOX(&deformation_loss));
  m.impl("deformation_loss_backward", TORCH_BOX(&deformation_loss_backward));
}

}  // namespace kpdeform
