// 16-bit element types of features; arithmetic on them is in float32. In CUDA code, these names are
// torch's own types.
#pragma once

#include <cstdint>

namespace kpdeform {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace kpdeform
