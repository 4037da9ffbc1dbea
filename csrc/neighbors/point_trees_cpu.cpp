#include <algorithm>
#include <utility>

#include "base/parallel.h"
#include "neighbors/point_trees.h"

namespace kpdeform {
namespace {

// The d2 of the contract, step by step: d2_to for the point x, d2_to_box for the nearest position
// in a box.
template <typename T>
double d2_to(const double* query, const T* x) {
  double d2 = 0;
  for (int d = 0; d < 3; ++d) {
    const double difference = query[d] - static_cast<double>(x[d]);
    d2 += difference * difference;
  }
  return d2;
}
template <typename T>
double d2_to_box(const double* query, const T* low, const T* high) {
  double d2 = 0;
  for (int d = 0; d < 3; ++d) {
    const double below = static_cast<double>(low[d]) - query[d];
    const double above = query[d] - static_cast<double>(high[d]);
    const double difference = std::max(std::max(below, above), 0.0);
    d2 += difference * difference;
  }
  return d2;
}

// The d2 to the farthest position in a box.
template <typename T>
double d2_across_box(const double* query, const T* low, const T* high) {
  double d2 = 0;
  for (int d = 0; d < 3; ++d) {
    const double from_low = query[d] - static_cast<double>(low[d]);
    const double from_high = static_cast<double>(high[d]) - query[d];
    const double difference = std::max(from_low, from_high);
    d2 += difference * difference;
  }
  return d2;
}

template <typename T>
void widen(const T* x, int dims, double* query) {
  for (int d = 0; d < 3; ++d) query[d] = d < dims ? static_cast<double>(x[d]) : 0;
}

}  // namespace

template <typename T>
PointTrees<T>::PointTrees(const Clouds<T>& points, const std::vector<int64_t>& queries_in)
    : dims_(points.dims), points_(points.size()) {
  constexpr int64_t kLeaf = 16;
  int64_t num_boxes = 0;
  std::vector<Node> nodes;  // nodes that are not built yet
  for (int64_t b = 0; b < points.count(); ++b) {
    const int64_t begin = points.offsets[b], end = points.offsets[b + 1];
    Node root{num_boxes, 0, begin, end, 0};
    if (queries_in[b] > 0 && end > begin) {
      // A level of nodes costs as much as two visits of every point, and halves the leaves.
      const int64_t leaf = std::max(kLeaf, 2 * (end - begin) / queries_in[b]);
      while ((end - begin) >> root.levels > leaf) ++root.levels;
      num_boxes += (int64_t{2} << root.levels) - 1;
      nodes.push_back(root);
    }
    roots_.push_back(root);
  }
  boxes_ = Buffer<Bounds>(num_boxes);

  const int64_t threads = num_threads();
  const auto for_nodes = [&](const auto& body) {
    parallel_tasks(static_cast<int64_t>(nodes.size()), threads, [&](int64_t i) { body(nodes[i]); });
  };
  for_nodes([&](const Node& root) { load(points, root); });
  while (!nodes.empty() && static_cast<int64_t>(nodes.size()) < 4 * threads) {
    for_nodes([&](const Node& node) { split(node); });
    std::vector<Node> halves;
    for (const Node& node : nodes)
      if (node.levels > 0) {
        halves.push_back(node.low_half());
        halves.push_back(node.high_half());
      }
    nodes = std::move(halves);
  }
  for_nodes([&](const Node& node) { build(node); });
}

template <typename T>
void PointTrees<T>::load(const Clouds<T>& points, const Node& root) {
  for (int64_t row = root.begin; row < root.end; ++row) {
    const T* x = points.data + row * dims_;
    points_[row] = {{x[0], x[1], dims_ == 3 ? x[2] : T(0)}, static_cast<uint32_t>(row)};
  }
}

// Computes the box of a node and divides its points between its two halves.
template <typename T>
void PointTrees<T>::split(const Node& node) {
  Point* const points = points_.get();
  const Point& first = points[node.begin];
  Bounds box{{first.x[0], first.x[1], first.x[2]}, {first.x[0], first.x[1], first.x[2]}, first.row};
  for (int64_t i = node.begin; i < node.end; ++i) {
    for (int d = 0; d < 3; ++d) {
      box.low[d] = std::min(box.low[d], points[i].x[d]);
      box.high[d] = std::max(box.high[d], points[i].x[d]);
    }
    box.first_row = std::min(box.first_row, points[i].row);
  }
  boxes_[node.root + node.box] = box;
  if (node.levels == 0) return;
  int axis = 0;
  for (int d = 1; d < 3; ++d)
    if (box.high[d] - box.low[d] > box.high[axis] - box.low[axis]) axis = d;
  std::nth_element(points + node.begin, points + node.middle(), points + node.end,
                   [axis](const Point& a, const Point& b) {
                     return a.x[axis] != b.x[axis] ? a.x[axis] < b.x[axis] : a.row < b.row;
                   });
}

template <typename T>
void PointTrees<T>::build(const Node& node) {
  split(node);
  if (node.levels == 0) return;
  build(node.low_half());
  build(node.high_half());
}

// Visits nodes and keeps the first `width` points in a heap, with the last of these points on top.
template <typename T>
struct PointTrees<T>::Finder {
  const PointTrees& trees;
  double query[3];
  TreeNeighbor limit;  // neighbours must come before it
  int64_t width;
  std::vector<TreeNeighbor>& found;

  TreeNeighbor nearest_possible(const Node& node) const {
    const Bounds& box = trees.box_of(node);
    return {d2_to_box(query, box.low, box.high), box.first_row};
  }

  void visit(const Node& node) {
    if (node.levels == 0) {
      for (int64_t i = node.begin; i < node.end; ++i) {
        const Point& point = trees.points_[i];
        const TreeNeighbor one{d2_to(query, point.x), point.row};
        if (one < limit) keep(one);
      }
      return;
    }
    std::pair<TreeNeighbor, Node> near{nearest_possible(node.low_half()), node.low_half()};
    std::pair<TreeNeighbor, Node> far{nearest_possible(node.high_half()), node.high_half()};
    if (far.first < near.first) std::swap(near, far);
    if (near.first < limit) visit(near.second);
    if (far.first < limit) visit(far.second);
  }

  void keep(const TreeNeighbor& one) {
    if (static_cast<int64_t>(found.size()) == width) {
      std::pop_heap(found.begin(), found.end());
      found.pop_back();
    }
    found.push_back(one);
    std::push_heap(found.begin(), found.end());
    if (static_cast<int64_t>(found.size()) == width) limit = found.front();
  }
};

template <typename T>
void PointTrees<T>::find(const T* query, int64_t cloud, TreeNeighbor limit, int64_t width,
                         std::vector<TreeNeighbor>& found) const {
  found.clear();
  const Node& root = roots_[cloud];
  if (root.begin == root.end || width == 0) return;
  Finder finder{*this, {}, limit, width, found};
  widen(query, dims_, finder.query);
  if (finder.nearest_possible(root) < limit) finder.visit(root);
  std::sort_heap(found.begin(), found.end());
}

template <typename T>
int64_t PointTrees<T>::count(const T* query, int64_t cloud, double radius2) const {
  const Node& root = roots_[cloud];
  if (root.begin == root.end) return 0;
  double wide[3];
  widen(query, dims_, wide);
  return count(wide, root, radius2);
}

template <typename T>
int64_t PointTrees<T>::count(const double* query, const Node& node, double radius2) const {
  const Bounds& box = box_of(node);
  if (!(d2_to_box(query, box.low, box.high) < radius2)) return 0;
  if (d2_across_box(query, box.low, box.high) < radius2) return node.end - node.begin;
  if (node.levels > 0)
    return count(query, node.low_half(), radius2) + count(query, node.high_half(), radius2);
  int64_t inside = 0;
  for (int64_t i = node.begin; i < node.end; ++i) inside += d2_to(query, points_[i].x) < radius2;
  return inside;
}

template class PointTrees<float>;
template class PointTrees<double>;

}  // namespace kpdeform
