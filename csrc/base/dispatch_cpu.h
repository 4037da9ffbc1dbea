// What CPU ops do about dtypes: call a body with the C++ types of positions and features, convert a
// tensor to the dtype of the arithmetic, and allocate gradients.
#pragma once

#include "base/half.h"
#include "base/tensors.h"

namespace kpdeform {

inline Tensor compute_copy(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(
      tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

// A zeroed gradient shaped like `tensor`, or an empty tensor if it is not requested; `maker`
// supplies dtype and device.
inline Tensor gradient_of(bool wanted, const MaybeTensor& tensor, const Tensor& maker) {
  return wanted && tensor.has_value() ? torch::stable::new_zeros(maker, tensor->sizes())
                                      : torch::stable::new_empty(maker, {0});
}
template <typename T>
T* gradient_data(const Tensor& gradient) {
  return gradient.numel() == 0 ? nullptr : mutable_data<T>(gradient);
}

// Calls body(T(), F()) with the number type of positions and the element type of features.
template <typename Body>
auto dispatch_elements(ScalarType positions, ScalarType features, const Body& body) {
  if (positions == ScalarType::Double) return body(double(), double());
  if (features == ScalarType::Half) return body(float(), Half());
  if (features == ScalarType::BFloat16) return body(float(), BFloat16());
  return body(float(), float());
}

}  // namespace kpdeform
