// Packed clouds on CUDA: where each begins, its extent, and its points sorted by the cells of a
// grid. Everything is decided on the device; nothing here waits for it.
//
// A key is 64 bits: the cloud above, its cell below. What has no cell (NaN, far away) has the
// number of clouds as its cloud and comes last.
#pragma once

#include "base/cuda.h"
#include "base/sort_cuda.h"

namespace kpdeform {

// What a call finds out on the device and may report when it waits for it.
struct Findings {
  int64_t most_neighbors;
  int64_t bad_points, bad_queries;  // rows with NaN or infinite coordinates
  int64_t bad_lengths;
  // Of grids that may not grow: cells of the largest cloud, whether some are beyond
  // kLastCellNumber.
  double most_cells;
  int64_t far_cells;
};

// Clouds as given, and what the device knows of them.
struct DeviceClouds {
  Tensor points;   // (N, dims), contiguous
  Tensor offsets;  // (B + 1,) int64: cloud b has rows offsets[b] to offsets[b + 1]
  Tensor extents;  // (B,) for make_grids
  int64_t size() const { return points.size(0); }
  int64_t count() const { return offsets.size(0) - 1; }
  int dims() const { return int(points.size(1)); }
};

// Coordinates of a cell of one cloud. Points lie in cells 1 to extent - 2.
//
// Where these are more than keys can number, the axis is folded like a strip of paper: cells 0, 1,
// ..., size - 1, size - 2, ..., 1, 0, 1, ... Adjacent cells stay adjacent, and cells that come to
// lie on each other only add points to look at. So one far outlier costs nothing.
struct CloudGrid {
  double cell;
  double origin[3];   // of whole cells, or a coordinate (Morton order)
  int64_t extent[3];  // cells
  int64_t size[3];    // cells that have a number of their own
};

template <typename T>
struct alignas(16) SortedPoint {
  T x[3];
  uint32_t row;
};

enum class CellOrder {
  kRows,    // by (z, y, x); cells of at least the wanted size
  kMorton,  // octree cells; the extent of a cloud is 2^bits cells
};

struct SortedClouds {
  Tensor keys;    // (N,) int64, ascending
  Tensor points;  // (N,) SortedPoint<T>
};

// A zeroed Findings on the device of `like`, and its copy on the host. Reading waits.
Tensor make_findings(const OnDevice& device, const Tensor& like);
Findings read_findings(const OnDevice& device, const Tensor& findings);
void check_findings(const Findings& found, int64_t num_queries, int64_t num_points);

enum class Role { kPoints, kQueries };

// Counts bad rows as the role says.
DeviceClouds make_clouds(const OnDevice& device, const Tensor& points, const Tensor& lengths,
                         Role role, const Tensor& findings);

// Bits of a key below the cloud, and of one axis in Morton order.
int cell_bits(int64_t num_clouds);
int morton_bits(int64_t num_clouds);

// (B,) CloudGrid for the extents of the clouds. Cells begin at multiples of `cell`; they are
// folded, if that is allowed, for a cloud that would need too many of them. Morton cells divide the
// extent of nearly all points of a cloud, the outermost ones hold what lies beyond, and `cell` is
// ignored.
Tensor make_grids(const OnDevice& device, const DeviceClouds& clouds, CellOrder order, double cell,
                  bool may_fold, const Tensor& findings);

// Keys and rows by the cells of `grids`, ascending rows in a cell; a cloud's keys take `bits` bits.
KeysAndValues sort_rows(const OnDevice& device, const DeviceClouds& clouds, const Tensor& grids,
                        CellOrder order, int bits);

// The same with cell_bits() bits, and the points in that order.
SortedClouds sort_clouds(const OnDevice& device, const DeviceClouds& clouds, const Tensor& grids,
                         CellOrder order);

// ---- device

// Cells beyond are merged into the last one: rounding makes them unreliable.
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

// floor(x / cell) within what float64 tells apart.
__device__ inline double cell_number(double x, double cell) {
  double v = __ddiv_rn(x, cell);
  v = v < kLastCellNumber ? v : kLastCellNumber;
  v = v > -kLastCellNumber ? v : -kLastCellNumber;
  return std::floor(v);
}

// Cell of x along one axis in either order; -1 where the grid does not reach.
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

// The lowest 21 bits of x, two zeros before each.
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
