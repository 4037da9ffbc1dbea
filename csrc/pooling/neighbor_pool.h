// Contract of neighbor_pool: pooling of features over the rows of a neighbour table.
//
//   y[m,c] = max, mean or first of features[neighbors[m,h], c] over the occupied slots h
//
// 1. Slots. A slot that holds 0 to N - 1 is occupied; N and -1 mark an empty slot; any other value
//    is an error. On CUDA such a value counts as empty and is never read.
// 2. A row without an occupied slot gives 0.
// 3. Maximum. Ties go to the lowest slot; NaN wins. With shadow_zero, a row that has an empty slot
//    has one more candidate, the value 0, after the others: it wins only if they are all negative.
// 4. Nearest takes the first occupied slot.
// 5. Arithmetic. The mean is summed in float32 (float64 for float64), in the order of the slots.
// 6. argmax is (M, C) int16 for the maximum: the slot of the maximum, or -1 if there is none. It is
//    (0, C) for mean and nearest.
// 7. Backward. grad_features[n,c] is summed in the order of (m, h), in float32 (float64 for
//    float64), so that its bits are the same for any number of threads. On CUDA it goes over the
//    transposed table: starts and members of transpose_neighbors, or a new one if they are not
//    given. The CPU needs none and ignores them.
#pragma once

#include <cstdint>

#include "base/half.h"
#include "base/isa.h"

namespace kpdeform {

enum Reduce : int64_t { kMax = 0, kMean = 1, kNearest = 2 };

// Computes, for every channel c, best[c], the largest of features[rows[i] * channels + c] over i in
// [0, count), and slot[c], the slots[i] that belongs to it. count must be positive.
KPDEFORM_DECLARE_ISA(void max_of_rows(const float* features, const int64_t* rows,
                                      const int32_t* slots, int64_t count, int64_t channels,
                                      float* best, int32_t* slot))
KPDEFORM_DECLARE_ISA(void max_of_rows(const Half* features, const int64_t* rows,
                                      const int32_t* slots, int64_t count, int64_t channels,
                                      float* best, int32_t* slot))
KPDEFORM_DECLARE_ISA(void max_of_rows(const BFloat16* features, const int64_t* rows,
                                      const int32_t* slots, int64_t count, int64_t channels,
                                      float* best, int32_t* slot))

}  // namespace kpdeform
