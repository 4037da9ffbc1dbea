#include "neighbors/cells.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

// floor(v) for |v| < 2^51, in arithmetic that every instruction set has for vectors.
inline double floor_of(double v) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
  const double rounded = (v + kMagic) - kMagic;
  return rounded > v ? rounded - 1 : rounded;
}

// The whole number 0 <= v < 2^52 as an integer.
inline uint64_t integer_of(double v) {
  const double shifted = v + 4503599627370496.0;  // 2^52
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  return bits & 0xfffffffffffff;
}

template <int Dims, typename T>
void keys_of(const T* x, int64_t count, const CellRange& range, uint64_t* keys) {
  const CellRange r = range;
  for (int64_t i = 0; i < count; ++i) {
    double key = r.base;
    bool inside = true;
    for (int d = 0; d < Dims; ++d) {
      double v = static_cast<double>(x[i * Dims + d]) / r.cell;
      v = v < kLastCell ? v : kLastCell;
      v = v > -kLastCell ? v : -kLastCell;
      const double number = floor_of(v) - r.first[d];
      inside &= (number >= r.low) & (number <= r.high[d]);
      key += number * r.stride[d];
    }
    keys[i] = integer_of(inside ? key : r.outside);
  }
}

template <typename T>
bool extent_of(const T* x, int64_t count, int dims, double* low, double* high) {
  constexpr int kWide = 48;                   // a multiple of 2, of 3 and of every vector width
  T lows[kWide], highs[kWide], zeros[kWide];  // zeros: sums of 0 * x, NaN if any x is not finite
  for (int i = 0; i < kWide; ++i) {
    lows[i] = highs[i] = x[i % dims];
    zeros[i] = 0;
  }
  const int64_t size = count * dims;
  int64_t begin = 0;
  for (; begin + kWide <= size; begin += kWide)
    for (int i = 0; i < kWide; ++i) {
      const T v = x[begin + i];
      lows[i] = v < lows[i] ? v : lows[i];
      highs[i] = v > highs[i] ? v : highs[i];
      zeros[i] += v * 0;
    }
  for (int i = 0; begin + i < size; ++i) {
    const T v = x[begin + i];
    lows[i] = v < lows[i] ? v : lows[i];
    highs[i] = v > highs[i] ? v : highs[i];
    zeros[i] += v * 0;
  }
  T zero = 0;
  for (int d = 0; d < dims; ++d) {
    low[d] = lows[d];
    high[d] = highs[d];
    for (int i = d; i < kWide; i += dims) {
      low[d] = lows[i] < low[d] ? lows[i] : low[d];
      high[d] = highs[i] > high[d] ? highs[i] : high[d];
      zero += zeros[i];
    }
  }
  return zero == 0;
}

}  // namespace

void cell_keys(const float* x, int64_t count, int dims, const CellRange& range, uint64_t* keys) {
  dims == 3 ? keys_of<3>(x, count, range, keys) : keys_of<2>(x, count, range, keys);
}
void cell_keys(const double* x, int64_t count, int dims, const CellRange& range, uint64_t* keys) {
  dims == 3 ? keys_of<3>(x, count, range, keys) : keys_of<2>(x, count, range, keys);
}
bool extent(const float* x, int64_t count, int dims, double* low, double* high) {
  return extent_of(x, count, dims, low, high);
}
bool extent(const double* x, int64_t count, int dims, double* low, double* high) {
  return extent_of(x, count, dims, low, high);
}

int64_t rank_numbers(uint32_t* numbers, int64_t count, int64_t words, uint64_t* present,
                     uint32_t* before) {
  for (int64_t word = 0; word < words; ++word) present[word] = 0;
  for (int64_t i = 0; i < count; ++i) present[numbers[i] / 64] |= uint64_t{1} << numbers[i] % 64;
  uint32_t distinct = 0;
  for (int64_t word = 0; word < words; ++word) {
    before[word] = distinct;
    distinct += static_cast<uint32_t>(__builtin_popcountll(present[word]));
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t word = numbers[i] / 64;
    const uint64_t lower = present[word] & ((uint64_t{1} << numbers[i] % 64) - 1);
    numbers[i] = before[word] + static_cast<uint32_t>(__builtin_popcountll(lower));
  }
  return distinct;
}

}  // namespace kpdeform::KPDEFORM_ISA
