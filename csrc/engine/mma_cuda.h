// Matrix products of one warp on tensor cores: the instructions, and how their operands are spread
// over the lanes. The layouts are those of the PTX manual, mma.m16n8k16 and mma.m16n8k8.
//
// A product adds A (16, kDepth) times B (kDepth, 8) to D (16, 8), with float32 sums. Lane l has
// `group` = l / 4 and `member` = l % 4. Of A and B it holds kSlots numbers per row (of A) or column
// (of B); the function slot(member, s) gives the column of A, and row of B, of number s:
//
//   A  rows group and group + 8, columns slot(member, 0), slot(member, 1), ...
//   B  column group, rows slot(member, 0), ...
//   D  rows group and group + 8, columns 2 * member and 2 * member + 1
//
// kDepth and kSlots are 16 and 4 for 16-bit types, 8 and 2 for float32.
//
// Operands are 32-bit words: one float32 number or two of 16 bits, the first one in the low half.
// The order of columns of A, which is that of rows of B, does not matter as long as both agree.
//
// Coefficients are float32, but tensor cores multiply F, or TF32 if F is float32. Each coefficient
// is split into a sum of two such numbers, which leaves a relative error of about 2^-17 (bfloat16)
// or 2^-21 (float16, TF32). float32 features are split in the same way; 16-bit features are exact.
#pragma once

#include <cstring>

#include "base/cuda.h"

namespace kpdeform {

// D of one lane: {row group: two columns, row group + 8: two columns}.
struct MmaSums {
  float values[4] = {};
};

// The operand A of one lane: slots 0 and 1 of row group, of row group + 8; slots 2 and 3 likewise.
// Of float32 numbers, one word is one slot.
struct alignas(16) MmaA {
  uint32_t words[4];
};

// kVector neighbouring numbers of type F as words.
template <typename F, int kVector>
using Words = Pack<uint32_t, kVector* int(sizeof(F)) / 4>;
template <int kVector, typename F>
__device__ Words<F, kVector> load_words(const F* from) {
  return load_pack<Words<F, kVector>::kSize>(reinterpret_cast<const uint32_t*>(from));
}

template <typename To, typename From>
__device__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

#ifdef KPDEFORM_CUDA_SHIM
// The same products by their definition. Every lane shows its operands to the others.
template <typename Multiply>
inline void mma_in_shim(MmaSums& d, const MmaA& a, const uint32_t (&b)[2],
                        const Multiply& multiply) {
  constexpr unsigned kAll = ~0u;
  uint64_t shown[3][32];
  const uint64_t words[3] = {a.words[0] | uint64_t{a.words[1]} << 32,
                             a.words[2] | uint64_t{a.words[3]} << 32, b[0] | uint64_t{b[1]} << 32};
  for (int i = 0; i < 3; ++i) std::memcpy(shown[i], shim::meet(kAll, words[i]), sizeof(shown[i]));
  const int lane = int(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i)
    d.values[i] = multiply(shown, lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2, d.values[i]);
}
inline float word_of(const uint64_t (&shown)[32], int lane, int half) {
  return shim::from_word<float>(uint32_t(shown[lane] >> half * 32));
}
#endif

template <typename F>
struct Mma;

// float16 and bfloat16.
template <typename F>
struct HalfMma {
  static constexpr int kDepth = 16, kSlots = 4;
  static __device__ int slot(int member, int s) { return 2 * member + s % 2 + s / 2 * 8; }

  struct Coefficients {
    MmaA high, low;
  };
  // values[r][s]: row group + 8 r, column slot(s).
  static __device__ Coefficients make_coefficients(const float (&values)[2][kSlots]) {
    Coefficients a;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      split(values[i % 2][i / 2 * 2], values[i % 2][i / 2 * 2 + 1], a.high.words[i],
            a.low.words[i]);
    return a;
  }
  // B of number j of each row; rows[s]: row slot(s).
  template <typename W>
  static __device__ void make_b(const W (&rows)[kSlots], int j, uint32_t (&b)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t first = rows[2 * i].values[j / 2], second = rows[2 * i + 1].values[j / 2];
      b[i] = j % 2 == 0 ? (first & 0xffff) | second << 16 : first >> 16 | (second & 0xffff0000);
    }
  }
  static __device__ void multiply(MmaSums& d, const Coefficients& a, const uint32_t (&b)[2]) {
    multiply(d, a.low, b);
    multiply(d, a.high, b);
  }
  static __device__ void multiply(MmaSums& d, const MmaA& a, const uint32_t (&b)[2]) {
#ifdef KPDEFORM_CUDA_SHIM
    mma_in_shim(d, a, b, [](const auto& shown, int row, int column, float sum) {
      for (int k = 0; k < kDepth; ++k) {
        const int member = k % 8 / 2, half = k % 2;
        const uint64_t of_a = shown[k / 8][row % 8 * 4 + member] >> row / 8 * 32;
        const uint64_t of_b = shown[2][column * 4 + member] >> k / 8 * 32;
        sum += float(shim::from_word<F>(of_a >> half * 16)) *
               float(shim::from_word<F>(of_b >> half * 16));
      }
      return sum;
    });
#elif __CUDA_ARCH__ >= 800
    if constexpr (std::is_same_v<F, Half>)
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d.values[0]), "+f"(d.values[1]), "+f"(d.values[2]), "+f"(d.values[3])
          : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b[0]),
            "r"(b[1]));
    else
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d.values[0]), "+f"(d.values[1]), "+f"(d.values[2]), "+f"(d.values[3])
          : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b[0]),
            "r"(b[1]));
#endif
  }

 private:
  // Two numbers as a word of rounded ones and a word of what rounding took away.
  static __device__ void split(float first, float second, uint32_t& rounded, uint32_t& rest) {
    const F pair[2] = {F(first), F(second)};
    const F rests[2] = {F(first - float(pair[0])), F(second - float(pair[1]))};
    rounded = bits_as<uint32_t>(pair);
    rest = bits_as<uint32_t>(rests);
  }
};
template <>
struct Mma<Half> : HalfMma<Half> {};
template <>
struct Mma<BFloat16> : HalfMma<BFloat16> {};

template <>
struct Mma<float> {
  static constexpr int kDepth = 8, kSlots = 2;
  static __device__ int slot(int member, int s) { return member + 4 * s; }

  using Coefficients = MmaA;
  static __device__ MmaA make_coefficients(const float (&values)[2][kSlots]) {
    return {{bits_as<uint32_t>(values[0][0]), bits_as<uint32_t>(values[1][0]),
             bits_as<uint32_t>(values[0][1]), bits_as<uint32_t>(values[1][1])}};
  }
  template <typename W>
  static __device__ void make_b(const W (&rows)[kSlots], int j, uint32_t (&b)[2]) {
    b[0] = rows[0].values[j];
    b[1] = rows[1].values[j];
  }
  static __device__ void multiply(MmaSums& d, const MmaA& a, const uint32_t (&b)[2]) {
    MmaA a_high, a_low;
    uint32_t b_high[2], b_low[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) split(a.words[i], a_high.words[i], a_low.words[i]);
#pragma unroll
    for (int i = 0; i < 2; ++i) split(b[i], b_high[i], b_low[i]);
    product(d, a_low, b_high);
    product(d, a_high, b_low);
    product(d, a_high, b_high);
  }

 private:
  // The product ignores the last 13 bits of its operands. `low` is exact, but for what it ignores.
  static __device__ void split(uint32_t value, uint32_t& high, uint32_t& low) {
    high = value & 0xffffe000u;
    low = bits_as<uint32_t>(bits_as<float>(value) - bits_as<float>(high));
  }
  static __device__ void product(MmaSums& d, const MmaA& a, const uint32_t (&b)[2]) {
#ifdef KPDEFORM_CUDA_SHIM
    mma_in_shim(d, a, b, [](const auto& shown, int row, int column, float sum) {
      for (int k = 0; k < kDepth; ++k)
        sum += word_of(shown[k / 4], row % 8 * 4 + k % 4, row / 8) *
               word_of(shown[2], column * 4 + k % 4, k / 4);
      return sum;
    });
#elif __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d.values[0]), "+f"(d.values[1]), "+f"(d.values[2]), "+f"(d.values[3])
        : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};

}  // namespace kpdeform
