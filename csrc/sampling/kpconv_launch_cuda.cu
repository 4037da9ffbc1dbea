#include <limits>

#include "kpconv_launch_cuda.h"

namespace kpdeform {
namespace {

// A group of 1 becomes a dimension of its own: (M, K, D) -> (M, 1, K, D), (M, K) -> (M, K, 1).
MaybeTensor with_groups(const MaybeTensor& tensor, int64_t dims, int64_t at) {
  if (!tensor.has_value()) return std::nullopt;
  const Tensor dense = torch::stable::contiguous(*tensor);
  return dense.dim() == dims ? dense : torch::stable::unsqueeze(dense, at);
}

void check_like(const Tensor& tensor, const Tensor& queries, const char* name) {
  KPDEFORM_CHECK(
      tensor.scalar_type() == queries.scalar_type() && tensor.get_device() == queries.get_device(),
      name, " must have the positions' dtype and device");
}

}  // namespace

ConvInputs make_conv_inputs(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                            const Tensor& kernel_points, double sigma, const MaybeTensor& offsets,
                            const MaybeTensor& modulations, int64_t influence, int64_t aggregation,
                            int64_t channels) {
  using torch::stable::contiguous;
  check_positions(queries, points, neighbors, kernel_points, std::nullopt, std::nullopt, influence,
                  aggregation);
  const ConvInputs in{contiguous(queries),
                      contiguous(points),
                      contiguous(neighbors),
                      contiguous(kernel_points),
                      with_groups(offsets, 4, 1),
                      with_groups(modulations, 3, 2),
                      sigma,
                      Influence(influence),
                      Aggregation(aggregation)};
  constexpr int64_t kMostRows = std::numeric_limits<uint32_t>::max() - 1;
  KPDEFORM_CHECK(in.num_queries() <= kMostRows && in.num_points() <= kMostRows,
                 "more than 4294967294 rows in one call");
  const int64_t num_kernel_points = in.num_kernel_points();
  if (in.offsets.has_value()) {
    check_like(*in.offsets, queries, "offsets");
    KPDEFORM_CHECK(in.offsets->dim() == 4 && in.offsets->size(0) == in.num_queries() &&
                       in.offset_groups() > 0 && in.offsets->size(2) == num_kernel_points &&
                       in.offsets->size(3) == kernel_points.size(1),
                   "offsets must be (M, K, D) or (M, OG, K, D)");
  }
  if (in.modulations.has_value()) {
    check_like(*in.modulations, queries, "modulations");
    KPDEFORM_CHECK(in.modulations->dim() == 3 && in.modulations->size(0) == in.num_queries() &&
                       in.modulation_groups() > 0 && in.modulations->size(1) == num_kernel_points,
                   "modulations must be (M, K) or (M, K, MG)");
  }
  const int64_t slices = in.slices();
  KPDEFORM_CHECK((in.offset_groups() == 1 || in.offset_groups() == slices) &&
                     (in.modulation_groups() == 1 || in.modulation_groups() == slices),
                 "offsets and modulations differ in their number of groups");
  KPDEFORM_CHECK(channels % slices == 0,
                 "groups of offsets or modulations must divide the number of channels");
  return in;
}

TransposedTable transposed_table(const OnDevice& device, const ConvInputs& in,
                                 const MaybeTensor& starts, const MaybeTensor& members) {
  if (!starts.has_value() || !members.has_value())
    return transpose_table(device, in.neighbors, in.num_points());
  KPDEFORM_CHECK(starts->scalar_type() == ScalarType::Long && starts->dim() == 1 &&
                     starts->size(0) == in.num_points() + 1 &&
                     starts->get_device() == in.queries.get_device(),
                 "starts must be (N + 1,) int64 on the device of the neighbors");
  KPDEFORM_CHECK(
      (members->scalar_type() == ScalarType::Int || members->scalar_type() == ScalarType::Long) &&
          members->numel() == in.neighbors.numel() &&
          members->get_device() == in.queries.get_device(),
      "members must be (M * H,) int32 or int64 on the device of the neighbors");
  return {torch::stable::contiguous(*starts), torch::stable::contiguous(*members)};
}

Tensor sum_slices(const Tensor& gradient, int64_t dim, int64_t groups, const Tensor& like) {
  const Tensor sum =
      gradient.size(dim) == groups
          ? gradient
          : torch::stable::sum(gradient, torch::headeronly::IntHeaderOnlyArrayRef(&dim, 1));
  return torch::stable::reshape(sum, like.sizes());
}

}  // namespace kpdeform
