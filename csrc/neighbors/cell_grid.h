// Packed clouds sorted by the cells of a grid: the index behind every neighbour search.
//
// A coordinate x lies in cell floor(x / cell); three of them and the cloud make a 64-bit key that
// ascends with (cloud, z, y, x), so that the cells around a cell are at fixed key distances. Only
// occupied cells are stored: memory is O(N) whatever the extent. Each cloud is padded by two empty
// cells on every side, so that keys next to an edge do not reach into the next row. Where extents
// are so large that few keys are used, or that they would not fit (outliers suffice), stretches of
// empty cells along an axis are shortened to two, which keeps apart what was apart.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "neighbors/cells.h"

namespace kpdeform {

struct CloudKeys {
  uint64_t base;      // of the cloud's first cell; the next cloud's base ends it
  uint64_t stride_y;  // key distance of neighbours in y and z; it is 1 in x
  uint64_t stride_z;
};

template <typename T>
struct SortedView {
  // Coordinates by cell, z = 0 for flat clouds; readable 64 entries beyond the end.
  const T *x, *y, *z;
  const uint32_t* rows;   // row of each in the caller's tensor, ascending inside a cell
  const uint64_t* keys;   // key of each occupied cell, ascending; then 8 larger than any
  const int64_t* begins;  // its first point; (num_cells + 1,)
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

// Extent of each cloud (low > high for an empty one). Fails, naming `argument`, if a coordinate is
// NaN or infinite.
template <typename T>
std::vector<Box> bounding_boxes(const Clouds<T>& clouds, const char* argument);

class CellGrid {
 public:
  // Cells of at least `cell` that cover `points`.
  template <typename T>
  CellGrid(const Clouds<T>& points, const std::vector<Box>& boxes, double cell);

  double cell() const { return cell_; }
  const CloudKeys* clouds() const { return clouds_.data(); }
  uint64_t outside() const { return outside_; }

  // Sorts rows[0..count) of `points` (all rows, in order, if null) by cell. What is more than one
  // cell away from every point of the grid goes last, into one cell with the key outside().
  template <typename T>
  SortedPoints<T> sort(const Clouds<T>& points, const uint32_t* rows, int64_t count) const;

 private:
  // The cells of one axis of one cloud, numbered.
  struct Axis {
    int64_t first = 0, last = -1;  // occupied cells
    std::vector<int64_t>
        occupied;  // if empty stretches are shortened: every occupied cell and its number
    std::vector<int64_t> numbers;
    int64_t size() const;                // padding included
    int64_t number(int64_t cell) const;  // < 0: more than one cell away from any occupied cell
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
  std::vector<CloudKeys> clouds_;  // (B + 1,), the last one's base is outside_
  uint64_t outside_ = 0;
};

}  // namespace kpdeform
