// transpose_neighbors on CUDA, for its own op and for gradients whose caller gave no table.
#pragma once

#include "base/cuda.h"

namespace kpdeform {

// starts (N + 1,) int64; members (M*H,) int32, of which only the first starts[N] are used. The
// queries of point n, ascending, are members[starts[n]] to members[starts[n + 1] - 1].
struct TransposedTable {
  Tensor starts, members;
};

TransposedTable transpose_table(const OnDevice& device, const Tensor& neighbors,
                                int64_t num_points);

}  // namespace kpdeform
