// Fixed-radius and k-nearest neighbours of packed clouds.
//
// Contract (radius_neighbors, knn_neighbors; CPU and CUDA alike)
//
//   d2(m, n): (dx*dx + dy*dy) + dz*dz in float64, dx = float64(q_m.x) - float64(p_n.x), every step
//   rounded, no fused multiply-add: the same neighbours and the same order on every device and
//   instruction set.
//
//   Neighbours: n is one of m if both belong to the same cloud and d2 < radius * radius (radius:
//   any; knn: infinite).
//
//   Row m: neighbours by (d2, n), ascending; the first `width` of them; then N, the empty slot.
//
//   Width: radius_neighbors: min(max_neighbors, largest count of the call), 0 if no query has a
//   neighbour; knn_neighbors: k. On CUDA, where nothing waits for the count if max_neighbors is
//   given: min(max_neighbors, N).
//
//   Coordinates that are NaN or infinite are an error; on CUDA they are looked for where the call
//   waits anyway, and have no neighbours elsewhere.
//
//   Dtype: int32; int64 when N >= 2^31. At most 2^32 - 1 rows a call.
//
// level_tables: all tables into one level of a pyramid from one index of its points, bit for bit
// those of separate calls: neighbors of points, pools of coarse, both by radius; upsamples of fine,
// the nearest point. (0, 0) in the place of pools without coarse and of upsamples without fine.
//
// How: points are sorted by the cell they lie in (cell_grid.h). The neighbours of all queries of
// one cell lie in 9 runs of sorted points (3 cells along x each), which cursors follow while the
// queries' cells ascend. Distances are first taken in float32, relative to the queries' cell and in
// units of the radius, so that their error has one bound, `slack`, wherever the cloud lies; pairs
// that float32 cannot decide or order are decided by d2 as above.
//
// What cells cannot do cheaply is left to kd-trees (point_trees.h), which are made only then:
// queries around which cells hold thousands of points, or as many that float32 cannot order; and
// what a k-nearest search has not completed when larger cells no longer complete half of what is
// left. So no cloud takes quadratic time on the CPU: not equal points, outliers, or densities that
// differ.
//
// A table that the memory of the machine cannot hold is an error that tells its size.
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "neighbors/cell_grid.h"

namespace kpdeform {

// One search: which neighbours of `queries` are written where. Read by the kernels of
// search_isa.cpp.
template <typename T>
struct Search {
  SortedView<T> points, queries;  // both sorted by the cells of `clouds`
  const CloudKeys* clouds;        // where the keys of each cloud begin
  uint64_t outside;               // cell key of queries that are near no point
  const T* point_rows;            // (N, dims), as given by the caller
  const T* query_rows;            // (M, dims)
  int dims;                       // 2 or 3
  double cell;                    // edge of a cell
  double radius;                  // <= cell size
  float slack;                    // bound of the error of a float32 d2 / radius^2
  bool distant;                   // some points may lie beyond kLastCell
  bool exact;                     // float32 is of no use here: decide every pair in float64
  void* table;                    // (M, width) int32, or int64 if `wide`; null: only count
  bool wide;
  int64_t width;
  int64_t empty;     // value of an empty slot
  uint32_t* counts;  // (M,) neighbours of each query, no more than `width`; may be null
  uint8_t* left;     // (M,) set for queries that are not answered: a kd-tree does it faster
};

constexpr int64_t kNoMemory = -1;

// Searches for the queries of cells [begin, end); returns the largest number of neighbours, no more
// than `width` (any number when only counting), or kNoMemory.
KPDEFORM_DECLARE_ISA(int64_t search_cells(const Search<float>& search, int64_t begin, int64_t end))
KPDEFORM_DECLARE_ISA(int64_t search_cells(const Search<double>& search, int64_t begin, int64_t end))

}  // namespace kpdeform
