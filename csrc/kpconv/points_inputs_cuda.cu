#include <limits>

#include "kpconv/points_inputs_cuda.h"

namespace kpdeform {
namespace {

// Inserts a dimension of size 1 for the groups: (M, K, D) -> (M, 1, K, D), (M, K) -> (M, K, 1).
MaybeTensor with_groups(const MaybeTensor& tensor, int64_t dims, int64_t at) {
  if (!tensor.has_value()) return std::nullopt;
  const Tensor dense = torch::stable::contiguous(*tensor);
  return dense.dim() == dims ? dense : torch::stable::unsqueeze(dense, at);
}

}  // namespace

PointsInputs make_points_inputs(const Tensor& queries, const Tensor& points,
                                const Tensor& neighbors, const Tensor& kernel_points, double sigma,
                                const MaybeTensor& offsets, const MaybeTensor& modulations,
                                int64_t influence, int64_t aggregation) {
  using torch::stable::contiguous;
  check_positions(queries, points, neighbors, kernel_points, offsets, modulations, influence,
                  aggregation);
  check_sigma(sigma, queries.scalar_type());
  constexpr int64_t kMostRows = std::numeric_limits<uint32_t>::max() - 1;
  KPDEFORM_CHECK(queries.size(0) <= kMostRows && points.size(0) <= kMostRows,
                 "more than 4294967294 rows in one call");
  return {contiguous(queries),
          contiguous(points),
          contiguous(neighbors),
          contiguous(kernel_points),
          with_groups(offsets, 4, 1),
          with_groups(modulations, 3, 2),
          sigma,
          Influence(influence),
          Aggregation(aggregation)};
}

Tensor sum_groups(const Tensor& gradient, int64_t dim, int64_t groups, const Tensor& like) {
  const Tensor sum =
      gradient.size(dim) == groups
          ? gradient
          : torch::stable::sum(gradient, torch::headeronly::IntHeaderOnlyArrayRef(&dim, 1));
  return torch::stable::reshape(sum, like.sizes());
}

}  // namespace kpdeform
