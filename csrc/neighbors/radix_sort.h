// Stable parallel radix sort of (key, row) entries, least significant digit first.
#pragma once

#include <algorithm>
#include <vector>

#include "neighbors/buffer.h"
#include "neighbors/parallel.h"

namespace kpdeform {

// Key and row in one word, for keys below 2^32.
struct NarrowEntry {
  uint64_t bits;
  NarrowEntry() = default;
  NarrowEntry(uint64_t key, uint32_t row) : bits(key << 32 | row) {}
  uint64_t key() const { return bits >> 32; }
  uint32_t row() const { return static_cast<uint32_t>(bits); }
};

struct WideEntry {
  uint64_t key_;
  uint32_t row_;
  WideEntry() = default;
  WideEntry(uint64_t key, uint32_t row) : key_(key), row_(row) {}
  uint64_t key() const { return key_; }
  uint32_t row() const { return row_; }
};

inline int bit_width(uint64_t value) { return value == 0 ? 0 : 64 - __builtin_clzll(value); }

// One pass: from `in` to `out` by the digit at `shift`. `parts` only shares the work; the result does not depend on it.
template <typename Entry>
void radix_pass(const Entry* in, Entry* out, int64_t count, int shift, int digit_bits, int64_t parts) {
  const int64_t digits = int64_t{1} << digit_bits;
  const uint64_t mask = digits - 1;
  std::vector<int64_t> offsets(parts * digits, 0);
  const auto begin_of = [&](int64_t part) { return count * part / parts; };
  parallel_chunks(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      int64_t* histogram = offsets.data() + part * digits;
      for (int64_t i = begin_of(part); i < begin_of(part + 1); ++i)
        ++histogram[in[i].key() >> shift & mask];
    }
  });
  int64_t total = 0;
  for (int64_t digit = 0; digit < digits; ++digit)
    for (int64_t part = 0; part < parts; ++part)
      total += std::exchange(offsets[part * digits + digit], total);
  parallel_chunks(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      int64_t* next = offsets.data() + part * digits;
      for (int64_t i = begin_of(part); i < begin_of(part + 1); ++i)
        out[next[in[i].key() >> shift & mask]++] = in[i];
    }
  });
}

// Sorts by key, keys below `limit`; equal keys keep their order.
template <typename Entry>
void radix_sort(Buffer<Entry>& entries, int64_t count, uint64_t limit) {
  constexpr int kMaxDigitBits = 11;
  const int bits = bit_width(limit == 0 ? 0 : limit - 1);
  if (count < 2 || bits == 0) return;
  const int passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
  const int digit_bits = (bits + passes - 1) / passes;
  const int64_t parts = num_parts(count, 16384);
  Buffer<Entry> other(count);
  for (int pass = 0; pass < passes; ++pass) {
    radix_pass(entries.get(), other.get(), count, pass * digit_bits, digit_bits, parts);
    std::swap(entries, other);
  }
}

}  // namespace kpdeform
