// Fixed-radius and k-nearest neighbours of packed clouds.
//
// Contract (radius_neighbors, knn_neighbors; CPU and CUDA alike)
//
//   d2(m, n): (dx*dx + dy*dy) + dz*dz in float64, dx = float64(q_m.x) - float64(p_n.x). Every step
//   is rounded and no fused multiply-add is used, so that every device and instruction set gives
//   the same neighbours in the same order.
//
//   Neighbours: n is a neighbour of m if both belong to the same cloud and d2 < radius * radius;
//   the radius of knn_neighbors is infinite.
//
//   Row m: the first `width` neighbours in ascending order of (d2, n). The remaining slots hold N,
//   which marks an empty slot.
//
//   Width: radius_neighbors: min(max_neighbors, largest count of the call), 0 if no query has a
//   neighbour; knn_neighbors: k. With max_neighbors on CUDA: min(max_neighbors, N), because the
//   call does not wait for the device to learn the largest count.
//
//   Coordinates that are NaN or infinite are an error. CUDA reports it only in calls that wait for
//   the device anyway; in all other calls a point with such coordinates has no neighbours.
//
//   Dtype: int32, or int64 when N >= 2^31. A call takes at most 2^32 - 1 rows.
//
// level_tables computes all tables of one pyramid level, on the CPU from one index of its points:
// neighbors (of points, by radius), pools (of coarse, by radius) and upsamples (of fine, the
// nearest point). They are equal, bit for bit, to the results of separate calls. Without coarse,
// pools is an empty (0, 0) tensor; without fine, upsamples is one.
//
// How it works on the CPU (CUDA: search_cuda.h): points are sorted by the cell they lie in
// (cell_grid.h). All neighbours of the queries in one cell lie in 9 contiguous runs of the sorted
// points, each of 3 cells along x. Queries are processed in ascending order of their cells, so
// cursors find these runs by moving forward. Distances are first computed in float32, relative to
// the queries' cell and in units of the radius, so one bound, `slack`, limits their error wherever
// the cloud lies. Where float32 cannot decide whether a pair is within the radius, or which of two
// neighbours comes first, d2 decides as above.
//
// Kd-trees (point_trees.h) answer the queries that cells cannot answer cheaply, and are built only
// when such queries exist. There are two kinds: queries with thousands of points in the cells
// around them, or with thousands of points that float32 cannot order; and queries of a k-nearest
// search that are still incomplete when doubling the cells completes less than half of the
// remaining queries. Therefore no cloud takes quadratic time on the CPU, even with equal points,
// outliers or uneven density.
//
// A table larger than the physical memory of the machine is an error that states its size.
#pragma once

#include <cstdint>

#include "base/isa.h"
#include "neighbors/cell_grid.h"

namespace kpdeform {

// One search: the input of the kernels in search_isa.cpp.
template <typename T>
struct Search {
  SortedView<T> points, queries;  // both sorted by the cells of `clouds`
  const CloudKeys* clouds;        // the range of keys of each cloud
  uint64_t outside;               // cell key of queries that have no point nearby
  const T* point_rows;            // (N, dims), as given by the caller
  const T* query_rows;            // (M, dims)
  int dims;                       // 2 or 3
  double cell;                    // edge length of a cell
  double radius;                  // <= cell size
  float slack;                    // error bound of d2 / radius^2 in float32
  bool distant;                   // some points may lie beyond kLastCell
  bool exact;                     // float32 is too inaccurate: decide every pair in float64
  void* table;                    // (M, width) int32, or int64 if `wide`; null to count only
  bool wide;
  int64_t width;
  int64_t empty;     // value of an empty slot
  uint32_t* counts;  // (M,) neighbours of each query, at most `width`; may be null
  uint8_t* left;     // (M,) set to 1 for queries that are left to the kd-trees
};

constexpr int64_t kNoMemory = -1;

// Searches for the neighbours of all queries in cells [begin, end). Returns the largest number of
// neighbours, at most `width` unless the search only counts, or kNoMemory.
KPDEFORM_DECLARE_ISA(int64_t search_cells(const Search<float>& search, int64_t begin, int64_t end))
KPDEFORM_DECLARE_ISA(int64_t search_cells(const Search<double>& search, int64_t begin, int64_t end))

}  // namespace kpdeform
