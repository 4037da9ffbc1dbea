// The transposed table that the gradient of rows is gathered over, on CUDA.
#pragma once

#include "base/cuda.h"

namespace kpdeform {

// starts (N + 1,) int64; members (M*H,) int32, of which only the first starts[N] are used. The
// queries of point n, ascending, are members[starts[n]] to members[starts[n + 1] - 1].
struct TransposedTable {
  Tensor starts, members;
};

}  // namespace kpdeform
