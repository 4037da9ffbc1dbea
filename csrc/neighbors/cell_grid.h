// Packed clouds sorted by the cells of a grid: the index behind every neighbour search.
//
// A coordinate x lies in cell floor(x / cell). The cloud and the three cell indices form a 64-bit
// key that ascends with (cloud, z, y, x), so the neighbours of a cell are at fixed key distances
// from it. Only occupied cells are stored: memory is O(N) whatever the extent. Each cloud is padded
// by two empty cells on every side, so that the keys next to a cell at the edge do not belong to
// the next row of cells. Where the extent is so large that few keys are used, or that the keys
// would not fit into 64 bits (a few outliers suffice), runs of empty cells along an axis are
// shortened to two cells. Cells that were not adjacent are still not adjacent afterwards.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "neighbors/cells.h"

namespace kpdeform {

struct CloudKeys {
  uint64_t base;      // key of the cloud's first cell; its keys end at the next cloud's base
  uint64_t stride_y;  // key distance of adjacent cells in y and z; it is 1 in x
  uint64_t stride_z;
};

template <typename T>
struct SortedView {
  // Coordinates in the order of cells; z = 0 for 2D clouds. 64 entries beyond the end are readable.
  const T *x, *y, *z;
  const uint32_t* rows;   // row of each point in the caller's tensor, ascending within a cell
  const uint64_t* keys;   // keys of the occupied cells, ascending; then 8 larger ones
  const int64_t* begins;  // first point of each cell; (num_cells + 1,)
  int64_t num_cells;
};

template <typename T>
struct SortedPoints {
  Buffer<T> x, y, z;
  Buffer<uint32_t> rows;
  Buffer<uint64_t> keys;
  Buffer<int64_t> begins;
  int64_t num_cells = 0;
  SortedView<T> view() const {
    return {x.get(), y.get(), z.get(), rows.get(), keys.get(), begins.get(), num_cells};
  }
};

// Packed clouds as the caller gave them.
template <typename T>
struct Clouds {
  const T* data;                 // (N, dims), contiguous
  int dims;                      // 2 or 3
  std::vector<int64_t> offsets;  // (B + 1,): cloud b has rows offsets[b] to offsets[b + 1]
  int64_t size() const { return offsets.back(); }
  int64_t count() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t cloud_of(int64_t row) const {
    return std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
  }
};

struct Box {
  double low[3], high[3];
};

// Bounding box of each cloud (low > high for an empty one). Fails, naming `argument`, if a
// coordinate is NaN or infinite.
template <typename T>
std::vector<Box> bounding_boxes(const Clouds<T>& clouds, const char* argument);

class CellGrid {
 public:
  // Builds the grid that covers `points`, with cells of edge length `cell` or, if necessary,
  // larger.
  template <typename T>
  CellGrid(const Clouds<T>& points, const std::vector<Box>& boxes, double cell);

  double cell() const { return cell_; }
  const CloudKeys* clouds() const { return clouds_.data(); }
  uint64_t outside() const { return outside_; }

  // Sorts rows[0..count) of `points` by cell; all rows in order if `rows` is null. Points more than
  // one cell away from every point of the grid come last, in one cell with the key outside().
  template <typename T>
  SortedPoints<T> sort(const Clouds<T>& points, const uint32_t* rows, int64_t count) const;

 private:
  // The occupied cells along one axis of one cloud, and their numbers.
  struct Axis {
    int64_t first = 0, last = -1;  // first and last occupied cell
    std::vector<int64_t>
        occupied;  // if empty runs are shortened: the occupied cells; `numbers` has theirs
    std::vector<int64_t> numbers;
    int64_t size() const;                // padding included
    int64_t number(int64_t cell) const;  // -1 if no occupied cell is within one cell
  };

  int64_t cell_of(double x) const;
  template <typename T>
  void keys_of(int64_t cloud, const T* x, int64_t count, int dims, uint64_t* keys) const;
  void place(const std::vector<Box>& boxes);
  template <typename T>
  void shorten(const Clouds<T>& points);
  bool number_keys(double most);
  template <typename T, typename Key>
  SortedPoints<T> sort_with(const Clouds<T>& points, const uint32_t* rows, int64_t count) const;

  double cell_;
  bool shortened_ = false;
  std::vector<Axis> axes_;         // 3 per cloud
  std::vector<CloudKeys> clouds_;  // (B + 1,); the base of the last one is outside_
  uint64_t outside_ = 0;
};

}  // namespace kpdeform
