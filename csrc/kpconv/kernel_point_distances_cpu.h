// Smallest squared distances of kernel points on the CPU, for kernel_point_distances and for
// kpconv_with_distances.
#pragma once

#include "kpconv/points_inputs_cpu.h"

namespace kpdeform {

// An uninitialised result: (M, K), or (M, G, K) where offsets have groups.
Tensor distances_like(const PointsInputs& in);

// The distances of section 7 of the contract.
Tensor distances_of(const PointsInputs& in);

}  // namespace kpdeform
