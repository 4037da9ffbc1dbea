// Checks that keep batch_norm and its gradient memory-safe on every device. kpdeform/ops/norm.py has
// the error messages for users; those here are for callers that bypass it.
#pragma once

#include <cmath>

#include "base/tensors.h"

namespace kpdeform {

// The dtype of everything that is per channel.
inline ScalarType columns_dtype(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_rows(const Tensor& tensor, const Tensor& like, const char* name) {
  KPDEFORM_CHECK(tensor.is_contiguous() && tensor.dim() == 2 && tensor.size(0) == like.size(0) &&
                     tensor.size(1) == like.size(1) && tensor.scalar_type() == like.scalar_type() &&
                     tensor.get_device() == like.get_device(),
                 name, " must be contiguous (N, C), of the features' dtype and device");
}

inline void check_columns(const Tensor& tensor, const Tensor& features, const char* name) {
  KPDEFORM_CHECK(tensor.is_contiguous() && tensor.dim() == 1 &&
                     tensor.size(0) == features.size(1) &&
                     tensor.scalar_type() == columns_dtype(features) &&
                     tensor.get_device() == features.get_device(),
                 name, " must be contiguous (C,) on the features' device, float64 beside float64 ",
                 "features and float32 beside others");
}

inline void check_features(const Tensor& features, double eps, double slope, int64_t groups) {
  const ScalarType dtype = features.scalar_type();
  KPDEFORM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                     dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                 "features must be float32, float64, float16 or bfloat16");
  KPDEFORM_CHECK(features.dim() == 2, "features must be (N, C)");
  check_rows(features, features, "features");
  KPDEFORM_CHECK(groups > 0 && features.size(1) % groups == 0, "groups must divide the channels");
  KPDEFORM_CHECK(eps >= 0 && std::isfinite(eps), "eps must be finite and at least 0, got ", eps);
  KPDEFORM_CHECK(slope >= 0 && std::isfinite(slope), "slope must be finite and at least 0, got ",
                 slope);
}

inline void check_batch_norm(const Tensor& features, const Tensor& weight, const Tensor& bias,
                             const MaybeTensor& mean, const MaybeTensor& variance,
                             const MaybeTensor& residual, double eps, double slope,
                             int64_t groups) {
  check_features(features, eps, slope, groups);
  check_columns(weight, features, "weight");
  check_columns(bias, features, "bias");
  if (residual.has_value()) check_rows(*residual, features, "residual");
  KPDEFORM_CHECK(mean.has_value() == variance.has_value(),
                 "mean and variance must be given together");
  if (mean.has_value()) {
    check_columns(*mean, features, "mean");
    check_columns(*variance, features, "variance");
  }
  KPDEFORM_CHECK(mean.has_value() || features.size(0) > 0,
                 "features has no rows to take statistics of");
}

inline void check_batch_norm_backward(const Tensor& grad, const Tensor& out, const Tensor& features,
                                      const Tensor& weight, const Tensor& mean,
                                      const Tensor& variance, double eps, double slope,
                                      int64_t groups) {
  check_features(features, eps, slope, groups);
  check_rows(grad, features, "grad");
  check_rows(out, features, "out");
  check_columns(weight, features, "weight");
  check_columns(mean, features, "mean");
  check_columns(variance, features, "variance");
}

}  // namespace kpdeform
