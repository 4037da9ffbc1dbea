// transpose_neighbors on CUDA, for its own op and for gradients whose caller gave no table.
#pragma once

#include "engine/transposed_table_cuda.h"

namespace kpdeform {

TransposedTable transpose_table(const OnDevice& device, const Tensor& neighbors,
                                int64_t num_points);

}  // namespace kpdeform
