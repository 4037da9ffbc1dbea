// Sorting and prefix sums on the device, with CUB; compiled once for all ops that need them.
#pragma once

#include "base/cuda.h"

namespace kpdeform {

// keys: (count,) int64, not negative. values: (count,) int32 that hold the bits of uint32.
struct KeysAndValues {
  Tensor keys, values;
};

// Returns the pairs sorted stably by the lowest `bits` bits of the keys.
KeysAndValues sort_by_key(const OnDevice& device, const KeysAndValues& pairs, int bits);

// Returns starts (limit + 1,) int64: starts[n] is the number of the ascending keys that are below n
// * 2^bits.
Tensor key_starts(const OnDevice& device, const Tensor& keys, int64_t limit, int bits = 0);

// Returns the exclusive prefix sum; (count,) int64.
Tensor exclusive_sum(const OnDevice& device, const Tensor& values);

// The position of the first of the ascending keys in [low, high) that is not below `key`, or
// `high`.
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
