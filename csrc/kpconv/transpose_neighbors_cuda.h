// transpose_neighbors on CUDA, for its own op and for gradients whose caller gave no table.
#pragma once

#include "engine/transposed_table_cuda.h"

namespace kpdeform {

TransposedTable transpose_table(const OnDevice& device, const Tensor& neighbors,
                                int64_t num_points);

// The caller's table, whose shapes are checked, or a new one if there is none. Kernels must not
// trust the values of the caller's table.
TransposedTable transposed_table(const OnDevice& device, const Tensor& neighbors,
                                 int64_t num_points, const MaybeTensor& starts,
                                 const MaybeTensor& members);

}  // namespace kpdeform
