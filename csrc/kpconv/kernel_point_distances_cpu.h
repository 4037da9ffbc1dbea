// The smallest squared distances of kernel points on the CPU, for kernel_point_distances and
// kpconv_with_distances.
#pragma once

#include "kpconv/points_inputs_cpu.h"

namespace kpdeform {

// Returns an uninitialised result: (M, K), or (M, G, K) if the offsets have groups.
Tensor distances_like(const PointsInputs& in);

// Returns the distances of section 7 of the contract.
Tensor distances_of(const PointsInputs& in);

}  // namespace kpdeform
