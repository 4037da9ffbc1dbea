// K nearest within a radius with nanoflann's kd-tree and OpenMP: what a careful user writes.
// Rows are nearest first and padded with the number of points.
#include <cstdint>
#include <limits>
#include <nanoflann.hpp>
#include <vector>

namespace {

struct Points {
  const float* data;
  size_t size;
  size_t kdtree_get_point_count() const { return size; }
  float kdtree_get_pt(size_t row, size_t axis) const { return data[3 * row + axis]; }
  template <typename Box>
  bool kdtree_get_bbox(Box&) const {
    return false;
  }
};

using Tree = nanoflann::KDTreeSingleIndexAdaptor<nanoflann::L2_Simple_Adaptor<float, Points>,
                                                 Points, 3, uint32_t>;

// The nearest `width` below a distance, kept in order.
struct Row {
  using DistanceType = float;
  float limit;
  int64_t width;
  float* distances;
  int32_t* rows;
  int64_t count = 0;

  bool addPoint(float distance, uint32_t row) {
    int64_t i = count < width ? count++ : width - 1;
    for (; i > 0 && distances[i - 1] > distance; --i) {
      distances[i] = distances[i - 1];
      rows[i] = rows[i - 1];
    }
    distances[i] = distance;
    rows[i] = static_cast<int32_t>(row);
    return true;
  }
  float worstDist() const { return count < width ? limit : distances[width - 1]; }
  bool full() const { return count == width; }
  bool empty() const { return count == 0; }
  size_t size() const { return count; }
  void sort() {}
};

template <typename Parameters>
Parameters parameters(int threads) {  // the tree is built by all threads where nanoflann can
  if constexpr (std::is_constructible_v<Parameters, size_t,
                                        nanoflann::KDTreeSingleIndexAdaptorFlags, unsigned>)
    return Parameters(10, nanoflann::KDTreeSingleIndexAdaptorFlags::None, threads);
  else
    return Parameters(10);
}

}  // namespace

extern "C" int nanoflann_version() {
  return NANOFLANN_VERSION;
}

// table (num_queries, width); radius <= 0: no limit.
extern "C" void neighbors(const float* queries, int64_t num_queries, const float* points,
                          int64_t num_points, float radius, int64_t width, int threads,
                          int32_t* table) {
  const Points cloud{points, static_cast<size_t>(num_points)};
  const Tree tree(3, cloud, parameters<nanoflann::KDTreeSingleIndexAdaptorParams>(threads));
  const float limit = radius > 0 ? radius * radius : std::numeric_limits<float>::max();
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> distances(width);
#pragma omp for schedule(dynamic, 1024)
    for (int64_t q = 0; q < num_queries; ++q) {
      int32_t* rows = table + q * width;
      Row row{limit, width, distances.data(), rows};
      tree.findNeighbors(row, queries + 3 * q, {});
      for (int64_t i = row.count; i < width; ++i) rows[i] = static_cast<int32_t>(num_points);
    }
  }
}
