// 16-bit element types of features; arithmetic on them is in float32. CPU code needs their bits
// alone; in CUDA code, these names are torch's own types.
#pragma once

#if defined(__CUDACC__) || defined(KPDEFORM_CUDA_SHIM)

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace kpdeform {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

}  // namespace kpdeform

#else

#include <cstdint>

namespace kpdeform {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace kpdeform

#endif
