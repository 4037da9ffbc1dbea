// A kd-tree per cloud: the index for queries whose surrounding grid cells hold too many or too few
// points.
//
// A node halves its points along the longest side of their bounding box and breaks ties by row, so
// the depth is log2 of the number of points for every cloud. A search enters the nearer half first.
// It skips a node if none of its points can come before, by (d2, row), the last neighbour kept so
// far; among equal points it therefore visits only those with the lowest rows. All arithmetic is d2
// of the contract in float64. Rounding is monotonic, so the d2 to a box is a lower bound of the d2
// to its points.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "neighbors/cell_grid.h"

namespace kpdeform {

struct TreeNeighbor {
  double d2;
  uint32_t row;
  bool operator<(const TreeNeighbor& other) const {
    return d2 != other.d2 ? d2 < other.d2 : row < other.row;
  }
};

template <typename T>
class PointTrees {
 public:
  // Builds the trees of the clouds that have queries; queries_in[b] is the number of queries in
  // cloud b. The fewer the queries, the larger the leaves, up to one leaf that holds the whole
  // cloud.
  PointTrees(const Clouds<T>& points, const std::vector<int64_t>& queries_in);

  // Sets `found` to the first `width` points of the cloud that come before `limit`, in order.
  void find(const T* query, int64_t cloud, TreeNeighbor limit, int64_t width,
            std::vector<TreeNeighbor>& found) const;

  // Returns the number of points of the cloud with d2 < radius2.
  int64_t count(const T* query, int64_t cloud, double radius2) const;

 private:
  struct Point {
    T x[3];
    uint32_t row;
  };
  struct Bounds {
    T low[3], high[3];
    uint32_t first_row;
  };
  // A node: the position of its box, its points [begin, end), and the number of levels below it.
  // The boxes of its two halves have the numbers 2 * box + 1 and 2 * box + 2, counted from the
  // root's.
  struct Node {
    int64_t root, box, begin, end;
    int levels;
    Node low_half() const { return {root, 2 * box + 1, begin, middle(), levels - 1}; }
    Node high_half() const { return {root, 2 * box + 2, middle(), end, levels - 1}; }
    int64_t middle() const { return begin + (end - begin) / 2; }
  };
  struct Finder;

  const Bounds& box_of(const Node& node) const { return boxes_[node.root + node.box]; }
  void load(const Clouds<T>& points, const Node& root);
  void split(const Node& node);
  void build(const Node& node);
  int64_t count(const double* query, const Node& node, double radius2) const;

  int dims_;
  std::vector<Node> roots_;  // one per cloud
  Buffer<Point> points_;
  Buffer<Bounds> boxes_;
};

}  // namespace kpdeform
