// Vectorised loops over coordinates: the first step of every search and subsampling.
#pragma once

#include <cstdint>

#include "base/isa.h"

namespace kpdeform {

// Cell indices are clamped to +-2^42: beyond that, rounding makes x / cell unreliable. The search
// decides in float64 there.
constexpr double kLastCell = 4398046511104.0;  // 2^42

// Upper bound for keys: below it, cell numbers are exact in float64, as cell_keys requires.
constexpr double kMostCells = 1125899906842624.0;  // 2^50

// The cells of one cloud. Cell c along axis d has the number c - first[d]. A point with a number
// outside [low, high[d]] on any axis gets the key `outside`.
struct CellRange {
  double cell;  // edge length
  double first[3];
  double low, high[3];
  double stride[3];  // difference of the keys of adjacent cells
  double base;       // key of the cell numbered 0, 0, 0
  double outside;    // key of points outside the range
};

// Computes keys[i] for the points i in [0, count), which have `dims` coordinates each. Coordinate x
// lies in cell floor(x / cell), where x / cell is clamped to [-kLastCell, kLastCell]. Every key is
// below kMostCells.
KPDEFORM_DECLARE_ISA(void cell_keys(const float* x, int64_t count, int dims, const CellRange& range,
                                    uint64_t* keys))
KPDEFORM_DECLARE_ISA(void cell_keys(const double* x, int64_t count, int dims,
                                    const CellRange& range, uint64_t* keys))

// Computes the bounding box low[d], high[d] of count >= 1 points. Returns whether every coordinate
// is finite.
KPDEFORM_DECLARE_ISA(bool extent(const float* x, int64_t count, int dims, double* low,
                                 double* high))
KPDEFORM_DECLARE_ISA(bool extent(const double* x, int64_t count, int dims, double* low,
                                 double* high))

// Replaces each of `count` numbers, all below 64 * words, by its rank among the distinct numbers.
// Returns the number of distinct numbers. `present` and `before` are working memory of `words`
// entries.
KPDEFORM_DECLARE_ISA(int64_t rank_numbers(uint32_t* numbers, int64_t count, int64_t words,
                                          uint64_t* present, uint32_t* before))

}  // namespace kpdeform
