// Element types of features that are half as wide as the float they are computed in. On CUDA these
// names are torch's own types.
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
