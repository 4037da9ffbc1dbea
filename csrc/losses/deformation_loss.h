// The loss of deformed kernel points of one layer, and what both devices need to compute it.
//
// Contract (deformation_loss). The K kernel points of one query and one offset group are a set.
//   kernel_points  P, (..., K, D), deformed positions, D = 2 or 3, float32 or float64
//   distances      d, any shape, dtype of P: squared distances of kernel points to the nearest point
//   numbers        sigma > 0; the weights fitting and repulsion; extent, in units of sigma
//   out            a scalar, 2 * fitting * mean(d) / sigma^2 + repulsion * (mean over all points i
//                  of the sum over the other points j of its set of
//                  min(|P_i - P_j| / sigma - extent, 0)^2). A mean over nothing is 0. A NaN in d, or
//                  in a set of two or more points, gives NaN
//   backward       not the derivative of `out`: in the term (i, j), P_j counts as a constant, so a
//                  point is moved by its own terms only. Points at one position have gradient 0
//                  from each other
//   arithmetic     terms in the dtype of P, sums over sets in float64 in one order, which gives the
//                  same bits for any number of threads or multiprocessors
#pragma once

#include <cmath>
#include <cstdint>

#include "base/host_device.h"
#include "base/tensors.h"

namespace kpdeform {

// Numbers of a call. The weights are those of single terms: divided by the numbers of the means.
struct LossWeights {
  double inverse_sigma, fitting, repulsion, extent;
};

// The gap between two kernel points, min(distance - extent, 0), from their difference in units of
// sigma, and the distance.
template <int kDims, typename T>
KPDEFORM_HD T gap_of(const T* a, const T* b, T inverse_sigma, T extent, T* difference,
                     T& distance) {
  T squared = 0;
  for (int d = 0; d < kDims; ++d) {
    difference[d] = (a[d] - b[d]) * inverse_sigma;
    squared += difference[d] * difference[d];
  }
  distance = std::sqrt(squared);
  const T gap = distance - extent;
  return gap > 0 ? T(0) : gap;  // keeps NaN
}

inline void check_deformation_loss(const Tensor& kernel_points, const Tensor& distances,
                                   double sigma) {
  const ScalarType dtype = kernel_points.scalar_type();
  KPDEFORM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                 "kernel_points must be float32 or float64");
  const int64_t dims = kernel_points.dim();
  KPDEFORM_CHECK(
      dims >= 2 && (kernel_points.size(dims - 1) == 2 || kernel_points.size(dims - 1) == 3),
      "kernel_points must be (..., K, D) with D = 2 or 3");
  KPDEFORM_CHECK(
      distances.scalar_type() == dtype && distances.get_device() == kernel_points.get_device(),
      "distances must have the dtype and device of kernel_points");
  KPDEFORM_CHECK(sigma > 0 && std::isfinite(sigma), "sigma must be finite and > 0, got ", sigma);
}

inline void check_deformation_gradient(const Tensor& grad, const Tensor& kernel_points) {
  KPDEFORM_CHECK(grad.dim() == 0 && grad.scalar_type() == kernel_points.scalar_type() &&
                     grad.get_device() == kernel_points.get_device(),
                 "grad must be a scalar of the dtype and device of kernel_points");
}

// The number of kernel points in all sets.
inline int64_t count_points(const Tensor& kernel_points) {
  return kernel_points.numel() / kernel_points.size(kernel_points.dim() - 1);
}

inline LossWeights weights_of(const Tensor& kernel_points, const Tensor& distances, double sigma,
                              double fitting, double repulsion, double extent) {
  const auto share = [](int64_t count) { return count == 0 ? 0.0 : 1.0 / double(count); };
  return {1 / sigma, 2 * fitting / (sigma * sigma) * share(distances.numel()),
          repulsion * share(count_points(kernel_points)), extent};
}

}  // namespace kpdeform
