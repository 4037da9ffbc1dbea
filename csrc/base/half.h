// Element types of features that are half as wide as float, in which they are computed. On CUDA
// these names are torch's own types.
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
