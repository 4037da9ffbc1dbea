// Sorting and scanning on the device, by CUB; compiled once for all ops that need them.
#pragma once

#include "base/cuda.h"

namespace kpdeform {

// (count,) int64 keys that are not negative, (count,) int32 values (bits of uint32).
struct KeysAndValues {
  Tensor keys, values;
};

// Sorted by the lowest `bits` bits of the keys, stably.
KeysAndValues sort_by_key(const OnDevice& device, const KeysAndValues& pairs, int bits);

// starts[n] for n in [0, limit]: how many of the ascending keys are below n * 2^bits; (limit + 1,)
// int64.
Tensor key_starts(const OnDevice& device, const Tensor& keys, int64_t limit, int bits = 0);

// Sums of what comes before each entry; (count,) int64.
Tensor exclusive_sum(const OnDevice& device, const Tensor& values);

// The first of `count` ascending keys that is not below `key`.
__device__ inline int64_t lower_bound(const uint64_t* keys, int64_t low, int64_t high,
                                      uint64_t key) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace kpdeform
