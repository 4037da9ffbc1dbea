// A kd-tree per cloud: the index for queries around which the cells of a grid hold too many points,
// or too few.
//
// A node halves its points along the longest side of their box, equal coordinates by row, so that
// the depth is log2 of their number whatever the cloud. A search enters the nearer half first and
// leaves out nodes none of whose points can come before the last neighbour it keeps, by (d2, row):
// of equal points it looks at the lowest rows and at no others. All arithmetic is d2 of the
// contract in float64. Rounding is monotonic, so that the d2 to a box is a bound of the d2 to its
// points.
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
  // Trees of the clouds that have queries: queries_in[b] is their number in cloud b. Leaves are
  // larger for few queries, down to one leaf that holds the whole cloud.
  PointTrees(const Clouds<T>& points, const std::vector<int64_t>& queries_in);

  // Makes `found` the first `width` points of the cloud that come before `limit`, in order.
  void find(const T* query, int64_t cloud, TreeNeighbor limit, int64_t width,
            std::vector<TreeNeighbor>& found) const;

  // How many points of the cloud have d2 < radius2.
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
  // A node: where its box is, its points, and how many levels of nodes are below it. The boxes of
  // its halves follow each other at 2 * box + 1 from the root's.
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
  std::vector<Node> roots_;  // of each cloud
  Buffer<Point> points_;
  Buffer<Bounds> boxes_;
};

}  // namespace kpdeform
