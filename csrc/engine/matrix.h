// Two small matrix products on tiles that fit into the cache: out = left @ packed, and out +=
// left^T @ right. Every element is summed in one fixed order, so results do not depend on how sites
// are distributed over threads.
#pragma once

#include <cstdint>

#include "base/simd.h"
#include "engine/shapes.h"

namespace kpdeform::KPDEFORM_ISA {

constexpr int kVectors = KPDEFORM_VECTOR_BYTES == 64 ? 4 : 2;  // vectors per row of a register tile
constexpr int kRows = KPDEFORM_VECTOR_BYTES == 16 ? 4 : 6;     // rows of a register tile
constexpr int64_t kDepth = 128;  // terms per pass: a panel of `packed` stays in L1
template <typename T>
constexpr int64_t kPanel = kVectors * kLanes<T>;  // columns of a register tile

// The number of lanes of vector v that lie within `columns`.
template <typename T>
inline int64_t lanes_within(int64_t columns, int v) {
  const int64_t rest = columns - v * kLanes<T>;
  return rest < 0 ? 0 : rest < kLanes<T> ? rest : kLanes<T>;
}

// out (Rows, columns <= Vectors * kLanes) = [out +] left (Rows, depth) @ panel (depth, kPanel);
// element (i, p) of left is left[i * row_stride + p * term_stride].
template <typename T, int Vectors, int Rows>
inline void register_tile(const T* left, int64_t row_stride, int64_t term_stride, const T* panel,
                          int64_t panel_stride, int64_t depth, int64_t columns, bool add, T* out,
                          int64_t out_stride) {
  Vec<T> sum[Rows][Vectors];
  const bool full = columns == Vectors * kLanes<T>;
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) sum[i][v] = Vec<T>{};
    if (!add) continue;
    for (int v = 0; v < Vectors; ++v) {
      const T* source = out + i * out_stride + v * kLanes<T>;
      sum[i][v] = full ? load(source) : load_first(source, lanes_within<T>(columns, v));
    }
  }
  for (int64_t p = 0; p < depth; ++p) {
    Vec<T> right[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) right[v] = load(panel + p * panel_stride + v * kLanes<T>);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const T value = left[i * row_stride + p * term_stride];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[i][v] += value * right[v];
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) {
      T* target = out + i * out_stride + v * kLanes<T>;
      if (full) {
        store(target, sum[i][v]);
      } else {
        store_first(target, sum[i][v], lanes_within<T>(columns, v));
      }
    }
  }
}

// Applies register_tile to the last rows, of which there are at most Rows.
template <typename T, int Vectors, int Rows>
inline void last_register_tile(const T* left, int64_t row_stride, int64_t term_stride, int64_t rows,
                               const T* panel, int64_t panel_stride, int64_t depth, int64_t columns,
                               bool add, T* out, int64_t out_stride) {
  if (rows == Rows) {
    register_tile<T, Vectors, Rows>(left, row_stride, term_stride, panel, panel_stride, depth,
                                    columns, add, out, out_stride);
  } else if constexpr (Rows > 1) {
    last_register_tile<T, Vectors, Rows - 1>(left, row_stride, term_stride, rows, panel,
                                             panel_stride, depth, columns, add, out, out_stride);
  }
}

// Applies register_tile to `rows` rows, with as few vectors as hold the columns: tiles of kRows
// rows, or of twice as many rows if they have few vectors, then smaller ones for the remainder.
template <typename T, int Vectors = kVectors>
inline void register_tiles(const T* left, int64_t row_stride, int64_t term_stride, int64_t rows,
                           const T* panel, int64_t panel_stride, int64_t depth, int64_t columns,
                           bool add, T* out, int64_t out_stride) {
  if constexpr (Vectors > 1) {
    if (columns <= (Vectors - 1) * kLanes<T>) {
      return register_tiles<T, Vectors - 1>(left, row_stride, term_stride, rows, panel,
                                            panel_stride, depth, columns, add, out, out_stride);
    }
  }
  int64_t i = 0;
  if constexpr (2 * Vectors <= kVectors) {
    for (; i + 2 * kRows <= rows; i += 2 * kRows) {
      register_tile<T, Vectors, 2 * kRows>(left + i * row_stride, row_stride, term_stride, panel,
                                           panel_stride, depth, columns, add, out + i * out_stride,
                                           out_stride);
    }
  }
  for (; i + kRows <= rows; i += kRows) {
    register_tile<T, Vectors, kRows>(left + i * row_stride, row_stride, term_stride, panel,
                                     panel_stride, depth, columns, add, out + i * out_stride,
                                     out_stride);
  }
  last_register_tile<T, Vectors, kRows - 1>(left + i * row_stride, row_stride, term_stride,
                                            rows - i, panel, panel_stride, depth, columns, add,
                                            out + i * out_stride, out_stride);
}

// Packs `terms` rows of one panel. The first `columns` columns are copied, the others are set to 0.
template <typename T>
inline void pack_rows(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t terms,
                      int64_t columns, T* packed) {
  for (int64_t p = 0; p < terms; ++p, matrix += row_stride, packed += kPanel<T>) {
    if (column_stride == 1 && columns == kPanel<T>) {
      for (int v = 0; v < kVectors; ++v)
        store(packed + v * kLanes<T>, load(matrix + v * kLanes<T>));
      continue;
    }
    for (int64_t c = 0; c < columns; ++c) packed[c] = matrix[c * column_stride];
    for (int64_t c = columns; c < kPanel<T>; ++c) packed[c] = 0;
  }
}

// out (rows, columns) = left (rows, terms) @ the packed matrix (terms, columns).
template <typename T>
inline void multiply_packed(const T* left, int64_t left_stride, int64_t rows, int64_t terms,
                            const T* packed, int64_t columns, T* out, int64_t out_stride) {
  for (int64_t first = 0; first < columns; first += kPanel<T>, packed += terms * kPanel<T>) {
    const int64_t width = columns - first < kPanel<T> ? columns - first : kPanel<T>;
    for (int64_t p = 0; p < terms; p += kDepth) {
      register_tiles(left + p, left_stride, 1, rows, packed + p * kPanel<T>, kPanel<T>,
                     terms - p < kDepth ? terms - p : kDepth, width, p > 0, out + first,
                     out_stride);
    }
  }
}

// out (rows, columns) += left (count, rows)^T @ right (count, columns). right_stride must be at
// least `columns` rounded up to whole panels; the surplus columns may hold any finite values.
template <typename T>
inline void accumulate_transposed(const T* left, int64_t left_stride, const T* right,
                                  int64_t right_stride, int64_t count, int64_t rows,
                                  int64_t columns, T* out, int64_t out_stride) {
  constexpr int64_t kRowBlock = 16 * kRows;
  for (int64_t p = 0; p < count; p += kDepth) {
    const int64_t depth = count - p < kDepth ? count - p : kDepth;
    for (int64_t r = 0; r < rows; r += kRowBlock) {
      for (int64_t first = 0; first < columns; first += kPanel<T>) {
        register_tiles(left + p * left_stride + r, 1, left_stride,
                       rows - r < kRowBlock ? rows - r : kRowBlock,
                       right + p * right_stride + first, right_stride, depth,
                       columns - first < kPanel<T> ? columns - first : kPanel<T>, true,
                       out + r * out_stride + first, out_stride);
      }
    }
  }
}

}  // namespace kpdeform::KPDEFORM_ISA
