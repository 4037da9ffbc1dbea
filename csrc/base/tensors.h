// Access to tensors, the same for the CPU and CUDA.
#pragma once

#include <optional>

#include "base/common.h"

namespace kpdeform {

using MaybeTensor = std::optional<Tensor>;

inline MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor.has_value() ? MaybeTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* data(const MaybeTensor& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}
template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace kpdeform
