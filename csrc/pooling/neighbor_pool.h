// Pooling of features over rows of a neighbour table.
//
// Contract (neighbor_pool; CPU and CUDA alike)
//   y(m, c)     max, mean or first of features[neighbors[m, h], c] over the occupied slots h
//   occupied    0 <= neighbors[m, h] < N; N and -1 are empty slots, anything else is an error
//   empty row   0
//   max         ties go to the lowest slot; NaN wins. With shadow_zero, a row with an empty slot has
//               one more candidate: the value 0, behind the others, so it wins only if all of them
//               are negative
//   nearest     the first occupied slot
//   arithmetic  mean adds in float32 (float64 for float64), in the order of slots
//   argmax      (M, C) int16 for max: the slot that was taken, -1 for none; (0, C) for mean and
//               nearest
//   backward    grad_features(n, c) adds up in the order of (m, h), in float32 (float64 for
//               float64): the same bits for any number of threads
#pragma once

#include <cstdint>

#include "isa.h"

namespace kpdeform {

// best[c] is the largest of features[rows[i] * channels + c] over i in [0, count), with count > 0;
// slot[c] is slots[i] of that i.
KPDEFORM_DECLARE_ISA(void max_of_rows(const float* features, const int64_t* rows,
                                      const int32_t* slots, int64_t count, int64_t channels,
                                      float* best, int32_t* slot))

}  // namespace kpdeform
