// The product of bfloat16 matrices on AMX tiles, for processors that have them: left @ packed with
// float32 sums. Every element is summed in one fixed order, as in engine/matrix.h.
//
// `packed` holds one tile after another of kPairColumns columns. The tile of a column is stored by
// steps of kPairTerms terms, each as (pairs of terms, columns, 2).
#pragma once

#include <cstdint>

#include "base/half.h"
#include "base/simd.h"
#include "engine/shapes.h"

#define KPDEFORM_AMX __attribute__((target("amx-tile,amx-bf16")))

namespace kpdeform::KPDEFORM_ISA {

constexpr int64_t kPairTile = kPairTerms * kPairColumns;

// Packs one tile of columns: element (p, c) of the matrix is matrix[p * row_stride + c]. Missing
// columns and terms become 0.
inline void pack_pair_tile(const BFloat16* matrix, int64_t row_stride, int64_t terms,
                           int64_t columns, BFloat16* packed) {
  const __mmask16 present = __mmask16((1u << columns) - 1);
  const auto words = [&](int64_t p) {
    const __m256i row = _mm256_maskz_loadu_epi16(p < terms ? present : __mmask16(0),
                                                 matrix + (p < terms ? p : 0) * row_stride);
    return _mm512_maskz_cvtepu16_epi32(0xffff, row);
  };
  for (int64_t p = 0; p < terms || p % kPairTerms != 0; p += 2, packed += 2 * kPairColumns) {
    const __m512i high = _mm512_maskz_slli_epi32(0xffff, words(p + 1), 16);
    _mm512_storeu_si512(packed, _mm512_or_si512(words(p), high));
  }
}

// out (kPairRows, 16 or 32) = left (kPairRows, terms) @ one or two tiles of columns. `terms` is a
// multiple of kPairTerms.
template <bool kTwo>
KPDEFORM_AMX inline void multiply_pair_block(const BFloat16* left, int64_t left_stride,
                                             int64_t terms, const BFloat16* packed, float* out,
                                             int64_t out_stride) {
  const int64_t left_bytes = left_stride * int64_t(sizeof(BFloat16));
  const int64_t out_bytes = out_stride * int64_t(sizeof(float));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t p = 0; p < terms; p += kPairTerms, packed += kPairTile) {
    _tile_loadd(4, left + p, left_bytes);
    _tile_loadd(5, left + p + kPairRows / 2 * left_stride, left_bytes);
    _tile_loadd(6, packed, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (kTwo) {
      _tile_loadd(7, packed + terms * kPairColumns, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, out_bytes);
  _tile_stored(1, out + kPairRows / 2 * out_stride, out_bytes);
  if constexpr (kTwo) {
    _tile_stored(2, out + kPairColumns, out_bytes);
    _tile_stored(3, out + kPairColumns + kPairRows / 2 * out_stride, out_bytes);
  }
}

// What the instruction LDTILECFG reads: eight tiles of 16 rows of 64 bytes. It is constant memory,
// because compilers do not see that the instruction reads more than its first bytes.
struct alignas(64) TileLayout {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t num_rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileLayout kTileLayout;

// out (rows, columns) = left (rows, terms) @ the packed matrix (terms, columns). `rows`, `terms` and
// `columns` are multiples of kPairRows, kPairTerms and kPairColumns.
KPDEFORM_AMX inline void multiply_pairs(const BFloat16* left, int64_t left_stride, int64_t rows,
                                        int64_t terms, const BFloat16* packed, int64_t columns,
                                        float* out, int64_t out_stride) {
  _tile_loadconfig(&kTileLayout);
  for (int64_t c = 0; c < columns; c += 2 * kPairColumns, packed += 2 * kPairColumns * terms) {
    for (int64_t r = 0; r < rows; r += kPairRows) {
      const BFloat16* block = left + r * left_stride;
      float* target = out + r * out_stride + c;
      if (c + kPairColumns < columns) {
        multiply_pair_block<true>(block, left_stride, terms, packed, target, out_stride);
      } else {
        multiply_pair_block<false>(block, left_stride, terms, packed, target, out_stride);
      }
    }
  }
  _tile_release();
}

}  // namespace kpdeform::KPDEFORM_ISA
