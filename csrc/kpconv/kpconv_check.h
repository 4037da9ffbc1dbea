// Checks that keep the kernel point ops memory-safe on every device: they refuse whatever a kernel
// could not handle. kpdeform/ops/kpconv.py has the error messages for users; those here are for
// callers that bypass it.
#pragma once

#include <optional>

#include "base/common.h"
#include "kpconv/kpconv.h"

namespace kpdeform {

// The number of groups of channels with their own offsets (M, [G,] K, D) or modulations (M, K[,
// G]).
inline int64_t offset_groups(const std::optional<Tensor>& offsets) {
  return offsets.has_value() && offsets->dim() == 4 ? offsets->size(1) : 1;
}
inline int64_t modulation_groups(const std::optional<Tensor>& modulations) {
  return modulations.has_value() && modulations->dim() == 3 ? modulations->size(2) : 1;
}

inline void check_positions(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                            const Tensor& kernel_points, const std::optional<Tensor>& offsets,
                            const std::optional<Tensor>& modulations, int64_t influence,
                            int64_t aggregation) {
  const ScalarType dtype = queries.scalar_type();
  KPDEFORM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                 "positions must be float32 or float64");
  KPDEFORM_CHECK(points.scalar_type() == dtype && kernel_points.scalar_type() == dtype,
                 "positions differ in dtype");
  KPDEFORM_CHECK(kernel_points.dim() == 2, "kernel_points must be (K, D)");
  const int64_t num_kernel_points = kernel_points.size(0), dim = kernel_points.size(1);
  KPDEFORM_CHECK(dim == 2 || dim == 3, "kernel_points must have 2 or 3 columns");
  KPDEFORM_CHECK(num_kernel_points > 0, "kernel_points is empty");
  KPDEFORM_CHECK(
      queries.dim() == 2 && queries.size(1) == dim && points.dim() == 2 && points.size(1) == dim,
      "queries, points and kernel_points must have the same number of columns");
  const int64_t num_queries = queries.size(0);
  KPDEFORM_CHECK(neighbors.dim() == 2 && neighbors.size(0) == num_queries,
                 "neighbors must have one row per query");
  KPDEFORM_CHECK(
      neighbors.scalar_type() == ScalarType::Int || neighbors.scalar_type() == ScalarType::Long,
      "neighbors must be int32 or int64");
  KPDEFORM_CHECK(points.get_device() == queries.get_device() &&
                     neighbors.get_device() == queries.get_device() &&
                     kernel_points.get_device() == queries.get_device(),
                 "tensors are on different devices");
  KPDEFORM_CHECK(kLinear <= influence && influence <= kConstant, "influence must be 0, 1 or 2");
  KPDEFORM_CHECK(kSum <= aggregation && aggregation <= kClosest, "aggregation must be 0 or 1");
  if (offsets.has_value()) {
    const int64_t d = offsets->dim();
    KPDEFORM_CHECK(
        (d == 3 || d == 4) && offsets->size(0) == num_queries && (d == 3 || offsets->size(1) > 0) &&
            offsets->size(d - 2) == num_kernel_points && offsets->size(d - 1) == dim &&
            offsets->scalar_type() == dtype && offsets->get_device() == queries.get_device(),
        "offsets must be (M, K, D) or (M, G, K, D) of the positions' dtype and device");
  }
  if (modulations.has_value()) {
    const int64_t d = modulations->dim();
    KPDEFORM_CHECK((d == 2 || d == 3) && modulations->size(0) == num_queries &&
                       modulations->size(1) == num_kernel_points &&
                       (d == 2 || modulations->size(2) > 0) &&
                       modulations->scalar_type() == dtype &&
                       modulations->get_device() == queries.get_device(),
                   "modulations must be (M, K) or (M, K, G) of the positions' dtype and device");
    KPDEFORM_CHECK(offset_groups(offsets) == 1 || modulation_groups(modulations) == 1 ||
                       offset_groups(offsets) == modulation_groups(modulations),
                   "offsets and modulations differ in their number of groups");
  }
}

inline void check_num_points(int64_t num_points) {
  KPDEFORM_CHECK(num_points >= 0 && num_points <= 4294967295,
                 "num_points must be 0 to 4294967295, got ", num_points);
}

// Ensures that sigma, its inverse and their squares are representable and positive in the dtype of
// the positions.
inline void check_sigma(double sigma, ScalarType positions) {
  const double most = positions == ScalarType::Double ? 1e150 : 1e18;
  KPDEFORM_CHECK(sigma >= 1 / most && sigma <= most, "sigma must be within ", 1 / most, " and ",
                 most, " for positions of this dtype, got ", sigma);
}

// Checks the shapes of a table of transpose_neighbors, of which both tensors must be given, or
// none. The values are checked where they are read: on the CPU by check_transposed, on CUDA by the
// sampler.
inline void check_transposed_shapes(const std::optional<Tensor>& starts,
                                    const std::optional<Tensor>& members, const Tensor& neighbors,
                                    int64_t num_points) {
  KPDEFORM_CHECK(starts.has_value() == members.has_value(),
                 "starts and members must be given together");
  if (!starts.has_value()) return;
  KPDEFORM_CHECK(starts->scalar_type() == ScalarType::Long && starts->dim() == 1 &&
                     starts->size(0) == num_points + 1 &&
                     starts->get_device() == neighbors.get_device(),
                 "starts must be (N + 1,) int64 on the device of the neighbors");
  KPDEFORM_CHECK(
      (members->scalar_type() == ScalarType::Int || members->scalar_type() == ScalarType::Long) &&
          members->dim() == 1 && members->size(0) == neighbors.numel() &&
          members->get_device() == neighbors.get_device(),
      "members must be (M * H,) int32 or int64 on the device of the neighbors");
}

// Checks the features. Every number of groups of offsets and modulations must divide their
// channels.
inline void check_channels(const Tensor& features, const Tensor& points,
                           const std::optional<Tensor>& offsets,
                           const std::optional<Tensor>& modulations) {
  KPDEFORM_CHECK(features.dim() == 2 && features.size(0) == points.size(0),
                 "features must have one row per point");
  KPDEFORM_CHECK(features.get_device() == points.get_device(),
                 "features and points are on different devices");
  const ScalarType dtype = features.scalar_type();
  KPDEFORM_CHECK(dtype == points.scalar_type() ||
                     (points.scalar_type() == ScalarType::Float &&
                      (dtype == ScalarType::Half || dtype == ScalarType::BFloat16)),
                 "features must be of the positions' dtype, or half precision with float32");
  KPDEFORM_CHECK(features.size(1) % offset_groups(offsets) == 0 &&
                     features.size(1) % modulation_groups(modulations) == 0,
                 "groups of offsets and modulations must divide the channels");
}

inline void check_dense(const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
                        int64_t groups) {
  KPDEFORM_CHECK(weight.dim() == 3 && weight.size(0) == kernel_points.size(0) && groups > 0 &&
                     features.size(1) % groups == 0 &&
                     weight.size(1) == features.size(1) / groups && weight.size(2) % groups == 0,
                 "weight must be (K, C/groups, O)");
  KPDEFORM_CHECK(features.scalar_type() == weight.scalar_type(),
                 "features and weight differ in dtype");
  KPDEFORM_CHECK(weight.get_device() == features.get_device(),
                 "features and weight are on different devices");
}

inline void check_depthwise(const Tensor& features, const Tensor& kernel_points,
                            const Tensor& weight) {
  KPDEFORM_CHECK(weight.dim() == 2 && weight.size(0) == kernel_points.size(0) &&
                     weight.size(1) == features.size(1),
                 "weight must be (K, C)");
  KPDEFORM_CHECK(features.scalar_type() == weight.scalar_type(),
                 "features and weight differ in dtype");
  KPDEFORM_CHECK(weight.get_device() == features.get_device(),
                 "features and weight are on different devices");
}

inline void check_distances_gradient(const Tensor& grad, const Tensor& offsets) {
  bool fine = grad.dim() + 1 == offsets.dim() && grad.scalar_type() == offsets.scalar_type() &&
              grad.get_device() == offsets.get_device();
  for (int d = 0; fine && d < grad.dim(); ++d) fine = grad.size(d) == offsets.size(d);
  KPDEFORM_CHECK(fine, "grad must be (M, K) or (M, G, K) of the positions' dtype and device");
}

inline void check_gradient(const Tensor& grad, const Tensor& features, int64_t rows,
                           int64_t channels) {
  KPDEFORM_CHECK(grad.dim() == 2 && grad.size(0) == rows && grad.size(1) == channels &&
                     grad.scalar_type() == features.scalar_type() &&
                     grad.get_device() == features.get_device(),
                 "grad must have the shape, dtype and device of the result");
}

}  // namespace kpdeform
