// Loops over coordinates that every search and subsampling begins with.
#pragma once

#include <cstdint>

#include "base/isa.h"

namespace kpdeform {

// Cells beyond are merged into the last one: rounding makes them unreliable. Searches decide there
// in float64.
constexpr double kLastCell = 4398046511104.0;  // 2^42

// So far, cell numbers are exact in float64 and cell_keys may be used.
constexpr double kMostCells = 1125899906842624.0;  // 2^50

// The cells of one cloud. Cell c of axis d is number c - first[d]; numbers outside [low, high[d]]
// have no key of their own.
struct CellRange {
  double cell;  // edge
  double first[3];
  double low, high[3];
  double stride[3];  // key distance of adjacent cells
  double base;       // key of the cell numbered 0, 0, 0
  double outside;    // key of what has none
};

// keys[i] of the points i in [0, count) of `dims` coordinates each. A coordinate x lies in cell
// floor(x / cell), where |x / cell| above kLastCell counts as that. Every key is below kMostCells.
KPDEFORM_DECLARE_ISA(void cell_keys(const float* x, int64_t count, int dims, const CellRange& range,
                                    uint64_t* keys))
KPDEFORM_DECLARE_ISA(void cell_keys(const double* x, int64_t count, int dims,
                                    const CellRange& range, uint64_t* keys))

// low[d], high[d]: the extent of count >= 1 points. Returns whether every coordinate is finite.
KPDEFORM_DECLARE_ISA(bool extent(const float* x, int64_t count, int dims, double* low,
                                 double* high))
KPDEFORM_DECLARE_ISA(bool extent(const double* x, int64_t count, int dims, double* low,
                                 double* high))

// Replaces each of `count` numbers, all below 64 * words, by its rank among the distinct ones;
// returns how many are distinct. `present` and `before` are working memory of `words` entries.
KPDEFORM_DECLARE_ISA(int64_t rank_numbers(uint32_t* numbers, int64_t count, int64_t words,
                                          uint64_t* present, uint32_t* before))

}  // namespace kpdeform
