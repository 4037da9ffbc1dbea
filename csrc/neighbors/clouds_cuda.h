// Packed clouds on CUDA: their offsets, their extents, and their points sorted by the cells of a
// grid. Everything is computed on the device; only read_findings waits for it.
//
// A key has 64 bits: the cloud in the high bits, the cell in the low bits. Points without a cell
// (NaN, or too far away) carry the number of clouds as their cloud and so come last.
#pragma once

#include "base/cuda.h"
#include "base/sort_cuda.h"

namespace kpdeform {

// What kernels find out about the input of a call. It stays in device memory until read_findings
// waits for the device and copies it to the host; only then can an error be reported.
struct Findings {
  int64_t most_neighbors;
  int64_t bad_points, bad_queries;  // rows with NaN or infinite coordinates
  int64_t bad_lengths;
  // Only for grids that may not be folded: the number of cells of the largest cloud, and whether
  // some cells are beyond kLastCellNumber.
  double most_cells;
  int64_t far_cells;
};

// The clouds as the caller gave them, and what the device has computed about them.
struct DeviceClouds {
  Tensor points;   // (N, dims), contiguous
  Tensor offsets;  // (B + 1,) int64: cloud b has rows offsets[b] to offsets[b + 1]
  Tensor extents;  // (B,) bounding boxes, used by make_grids
  int64_t size() const { return points.size(0); }
  int64_t count() const { return offsets.size(0) - 1; }
  int dims() const { return int(points.size(1)); }
};

// The grid of one cloud. Points lie in cells 1 to extent - 2 along every axis.
//
// If there are more cells than keys can number, an axis is folded like a strip of paper: its cells
// get the numbers 0, 1, ..., size - 1, size - 2, ..., 1, 0, 1, ... Adjacent cells stay adjacent.
// Cells that share a number only add candidates to the search, so one far outlier costs nothing.
struct CloudGrid {
  double cell;
  double origin[3];   // a cell index, or a coordinate in Morton order
  int64_t extent[3];  // number of cells per axis
  int64_t size[3];    // number of distinct cell numbers per axis
};

template <typename T>
struct alignas(16) SortedPoint {
  T x[3];
  uint32_t row;
};

enum class CellOrder {
  kRows,    // by (z, y, x); cells of the given edge length
  kMorton,  // octree cells in Morton order; 2^bits cells per axis
};

struct SortedClouds {
  Tensor keys;    // (N,) int64, ascending
  Tensor points;  // (N,) SortedPoint<T>
};

// make_findings returns a zeroed Findings on the device of `like`; read_findings waits for the
// device and returns a copy on the host.
Tensor make_findings(const OnDevice& device, const Tensor& like);
Findings read_findings(const OnDevice& device, const Tensor& findings);
void check_findings(const Findings& found, int64_t num_queries, int64_t num_points);

enum class Role { kPoints, kQueries };

// Computes offsets and extents. Counts rows with NaN or infinite coordinates as bad_points or
// bad_queries, depending on the role.
DeviceClouds make_clouds(const OnDevice& device, const Tensor& points, const Tensor& lengths,
                         Role role, const Tensor& findings);

// The number of bits of a key below the cloud, and of one axis in Morton order.
int cell_bits(int64_t num_clouds);
int morton_bits(int64_t num_clouds);

// Returns (B,) CloudGrid that cover the extents of the clouds. With CellOrder::kRows, cells begin
// at multiples of `cell`; if may_fold, the grid of a cloud that would need too many cells is
// folded. With CellOrder::kMorton, `cell` is ignored: the cells divide the extent of nearly all
// points of a cloud, and the outermost cells also hold the points beyond it.
Tensor make_grids(const OnDevice& device, const DeviceClouds& clouds, CellOrder order, double cell,
                  bool may_fold, const Tensor& findings);

// Returns keys and rows, sorted by the cells of `grids` and with ascending rows within a cell. The
// cell takes `bits` bits of a key.
KeysAndValues sort_rows(const OnDevice& device, const DeviceClouds& clouds, const Tensor& grids,
                        CellOrder order, int bits);

// The same with cell_bits() bits; also returns the points in that order.
SortedClouds sort_clouds(const OnDevice& device, const DeviceClouds& clouds, const Tensor& grids,
                         CellOrder order);

// ---- device

// Cell indices are clamped to +-2^42: beyond that, rounding makes x / cell unreliable.
constexpr double kLastCellNumber = 4398046511104.0;  // 2^42, as on the CPU

__device__ inline int64_t cloud_of(const int64_t* offsets, int64_t num_clouds, int64_t row) {
  int64_t low = 0, high = num_clouds - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (offsets[middle] <= row)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// floor(x / cell), with x / cell clamped to +-kLastCellNumber.
__device__ inline double cell_number(double x, double cell) {
  double v = __ddiv_rn(x, cell);
  v = v < kLastCellNumber ? v : kLastCellNumber;
  v = v > -kLastCellNumber ? v : -kLastCellNumber;
  return std::floor(v);
}

// The cell of x along one axis, in either order; -1 if x lies outside the grid.
__device__ inline int64_t cell_of(const CloudGrid& grid, CellOrder order, int d, double x) {
  const int64_t last = grid.size[d] - 1;
  if (order == CellOrder::kMorton) {
    const int64_t cell = int64_t(cell_number(x - grid.origin[d], grid.cell));
    return cell < 0 ? 0 : cell > last ? last : cell;
  }
  const int64_t cell = int64_t(cell_number(x, grid.cell) - grid.origin[d]);
  if (cell < 0 || cell >= grid.extent[d]) return -1;
  if (cell <= last) return cell;
  const int64_t folded = cell % (2 * last);
  return folded <= last ? folded : 2 * last - folded;
}

// Spreads the lowest 21 bits of x: two zero bits precede each of them.
__device__ inline uint64_t spread_bits(uint64_t x) {
  x &= 0x1fffff;
  x = (x | x << 32) & 0x1f00000000ffff;
  x = (x | x << 16) & 0x1f0000ff0000ff;
  x = (x | x << 8) & 0x100f00f00f00f00f;
  x = (x | x << 4) & 0x10c30c30c30c30c3;
  return (x | x << 2) & 0x1249249249249249;
}
__device__ inline uint64_t morton(const int64_t* cell) {
  return spread_bits(uint64_t(cell[0])) | spread_bits(uint64_t(cell[1])) << 1 |
         spread_bits(uint64_t(cell[2])) << 2;
}

}  // namespace kpdeform
