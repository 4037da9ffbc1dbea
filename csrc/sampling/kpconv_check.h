// Memory safety of the kernel point ops on every device: what a kernel takes for granted, refused
// otherwise. The words for users are in kpdeform/ops/kpconv.py; these are for direct callers.
#pragma once

#include <optional>

#include "../common.h"
#include "kpconv.h"

namespace kpdeform {

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
    KPDEFORM_CHECK(offsets->dim() == 3 && offsets->size(0) == num_queries &&
                       offsets->size(1) == num_kernel_points && offsets->size(2) == dim &&
                       offsets->scalar_type() == dtype &&
                       offsets->get_device() == queries.get_device(),
                   "offsets must be (M, K, D) of the positions' dtype and device");
  }
  if (modulations.has_value()) {
    KPDEFORM_CHECK(modulations->dim() == 2 && modulations->size(0) == num_queries &&
                       modulations->size(1) == num_kernel_points &&
                       modulations->scalar_type() == dtype &&
                       modulations->get_device() == queries.get_device(),
                   "modulations must be (M, K) of the positions' dtype and device");
  }
}

inline void check_features(const Tensor& features, const Tensor& kernel_points,
                           const Tensor& points, const Tensor& weight, int64_t groups) {
  KPDEFORM_CHECK(features.dim() == 2 && features.size(0) == points.size(0),
                 "features must have one row per point");
  KPDEFORM_CHECK(weight.dim() == 3 && weight.size(0) == kernel_points.size(0) && groups > 0 &&
                     weight.size(1) * groups == features.size(1) && weight.size(2) % groups == 0,
                 "weight must be (K, C/groups, O)");
  KPDEFORM_CHECK(features.scalar_type() == weight.scalar_type(),
                 "features and weight differ in dtype");
  KPDEFORM_CHECK(
      features.get_device() == points.get_device() && weight.get_device() == points.get_device(),
      "features, weight and points are on different devices");
}

}  // namespace kpdeform
