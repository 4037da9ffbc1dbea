// Sorts up to kLanes * kMostVectors words in registers with Batcher's bitonic network. In the form
// used here, every comparator puts the smaller word first. A number of vectors that is not a power
// of two is treated as if padded with infinite words: comparators with these change nothing and are
// omitted.
#pragma once

#include "neighbors/lanes.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

constexpr int kMostVectors = 16;  // the most vectors that sort_vectors takes

// Vectors stay in registers only if every function is inlined.
#define KPDEFORM_INLINE inline __attribute__((always_inline))

// Orders each lane with lane ^ Flip; the lane whose number has Bit clear receives the smaller word.
template <int Flip, int Bit>
KPDEFORM_INLINE void order_lanes(Words& value) {
  const Words other = exchange<Flip>(value);
  value = (lane_numbers() & Bit) == 0 ? min(value, other) : max(value, other);
}

template <int Distance>
KPDEFORM_INLINE void merge_lanes(Words& value) {
  if constexpr (Distance > 0) {
    order_lanes<Distance, Distance>(value);
    merge_lanes<Distance / 2>(value);
  }
}

// Sorts blocks of Size words inside a vector.
template <int Size>
KPDEFORM_INLINE void sort_lanes(Words& value) {
  if constexpr (Size > 1) {
    sort_lanes<Size / 2>(value);
    order_lanes<Size - 1, Size / 2>(value);
    merge_lanes<Size / 4>(value);
  }
}

// Merges the two sorted halves of a block of Block vectors that begins at First. Vectors from Count
// on do not exist.
template <int Count, int First, int Block>
KPDEFORM_INLINE void merge_halves(Words* v) {
  if constexpr (First + Block / 2 < Count) {
    for (int i = 0; i < Block / 2; ++i) {
      const int low = First + i, high = First + Block - 1 - i;
      if (high >= Count) continue;
      const Words a = v[low], b = exchange<kLanes - 1>(v[high]);
      v[low] = min(a, b);
      v[high] = exchange<kLanes - 1>(max(a, b));
    }
    for (int distance = Block / 4; distance > 0; distance /= 2)
      for (int i = First; i + distance < First + Block && i + distance < Count; ++i)
        if (((i - First) & distance) == 0) {
          const Words a = v[i], b = v[i + distance];
          v[i] = min(a, b);
          v[i + distance] = max(a, b);
        }
    for (int i = First; i < First + Block && i < Count; ++i) merge_lanes<kLanes / 2>(v[i]);
  }
}

template <int Count, int First, int Block>
inline void sort_block(Words* v) {
  if constexpr (First < Count) {
    if constexpr (Block == 1) {
      sort_lanes<kLanes>(v[First]);
    } else {
      sort_block<Count, First, Block / 2>(v);
      sort_block<Count, First + Block / 2, Block / 2>(v);
      merge_halves<Count, First, Block>(v);
    }
  }
}

// Sorts all words of Count vectors.
template <int Count>
inline void sort_vectors(Words (&v)[Count]) {
  sort_block<Count, 0, (Count > 8 ? 16 : Count > 4 ? 8 : Count > 2 ? 4 : Count)>(v);
}

}  // namespace
}  // namespace kpdeform::KPDEFORM_ISA
