// radius_neighbors and knn_neighbors on CUDA. Contract: neighbors.h. Kernels: search_cuda.h.
//
// A call does not wait for the device if the width of the table is known: radius_neighbors with
// max_neighbors, and knn_neighbors. Without max_neighbors, radius_neighbors counts first and waits
// for the largest count.
#include <cmath>
#include <limits>
#include <tuple>

#include "neighbors/neighbors.h"
#include "neighbors/search_cuda.h"

namespace kpdeform {
namespace {

constexpr int kLanes = 32;
constexpr int64_t kMostBlocks = 8192;  // threads process several queries, then report once

// The queries and points of a search, sorted by the cells of the points.
template <typename T>
class Problem {
 public:
  Problem(const Tensor& queries, const Tensor& points, const Tensor& query_lengths,
          const Tensor& point_lengths)
      : device_(points) {
    KPDEFORM_CHECK(queries.scalar_type() == points.scalar_type() &&
                       queries.get_device() == points.get_device(),
                   "queries and points differ in dtype or device");
    KPDEFORM_CHECK(queries.dim() == 2 && points.dim() == 2 && queries.size(1) == points.size(1),
                   "queries and points differ in dimension");
    KPDEFORM_CHECK(query_lengths.numel() == point_lengths.numel(),
                   "query_lengths and point_lengths differ in length");
    findings_ = make_findings(device_, points);
    points_ = make_clouds(device_, points, point_lengths, Role::kPoints, findings_);
    same_ =
        queries.const_data_ptr() == points.const_data_ptr() && queries.size(0) == points.size(0) &&
        (query_lengths.const_data_ptr() == point_lengths.const_data_ptr() || points_.count() == 1);
    queries_ =
        same_ ? points_ : make_clouds(device_, queries, query_lengths, Role::kQueries, findings_);
  }

  void sort(CellOrder order, double cell) {
    grids_ = make_grids(device_, points_, order, cell, true, findings_);
    sorted_points_ = sort_clouds(device_, points_, grids_, order);
    starts_ = key_starts(device_, sorted_points_.keys, points_.count(), cell_bits(points_.count()));
    sorted_queries_ = same_ ? sorted_points_ : sort_clouds(device_, queries_, grids_, order);
  }

  SearchArguments<T> arguments() const {
    SearchArguments<T> args{};
    args.points = data<SortedPoint<T>>(sorted_points_.points);
    args.point_keys = data<uint64_t>(sorted_points_.keys);
    args.num_points = points_.size();
    args.queries = data<SortedPoint<T>>(sorted_queries_.points);
    args.query_keys = data<uint64_t>(sorted_queries_.keys);
    args.num_queries = queries_.size();
    args.grids = data<CloudGrid>(grids_);
    args.starts = data<int64_t>(starts_);
    args.num_clouds = points_.count();
    args.dims = points_.dims();
    args.bits = cell_bits(points_.count());
    args.axis_bits = morton_bits(points_.count());
    args.most = &mutable_data<Findings>(findings_)->most_neighbors;
    return args;
  }

  void set_table(SearchArguments<T>& args, const Tensor& table) const {
    args.table = table.mutable_data_ptr();
    args.wide = table.scalar_type() == ScalarType::Long;
    args.width = table.size(1);
  }

  Tensor empty_table(int64_t width) const {
    const bool wide = points_.size() > std::numeric_limits<int32_t>::max();
    return torch::stable::new_empty(points_.points, {queries_.size(), width},
                                    wide ? ScalarType::Long : ScalarType::Int);
  }

  void run(void (*kernel)(SearchArguments<T>), const SearchArguments<T>& args) const {
    const int64_t blocks = divide_up(args.num_queries, kSearchThreads / kLanes);
    device_.launch(kernel, OnDevice::Grid{std::min(blocks, kMostBlocks)}, kSearchThreads,
                   search_bytes<kLanes>(), args);
  }

  // Waits for the device, which is not possible while a graph is captured.
  Findings findings() const {
    KPDEFORM_CHECK(!device_.capturing(),
                   "radius_neighbors needs max_neighbors while a CUDA graph is captured");
    const Findings found = read_findings(device_, findings_);
    check_findings(found, queries_.size(), points_.size());
    return found;
  }
  int64_t num_points() const { return points_.size(); }

 private:
  OnDevice device_;
  Tensor findings_, grids_, starts_;
  DeviceClouds points_, queries_;
  SortedClouds sorted_points_, sorted_queries_;
  bool same_ = false;
};

template <typename T>
Tensor radius_typed(const Tensor& queries, const Tensor& points, double radius,
                    const Tensor& query_lengths, const Tensor& point_lengths,
                    std::optional<int64_t> max_neighbors) {
  // Cells are a little larger than the radius, so that all points within the radius lie in adjacent
  // cells although x / cell is rounded.
  const double cell = radius * (1 + 1.0 / 256);
  Problem<T> problem(queries, points, query_lengths, point_lengths);
  problem.sort(CellOrder::kRows, cell);
  SearchArguments<T> args = problem.arguments();
  args.radius2 = radius * radius;
  if (!max_neighbors.has_value()) problem.run(radius_kernel<T, kLanes>, args);  // counts
  const int64_t width = max_neighbors.has_value() ? std::min(*max_neighbors, problem.num_points())
                                                  : problem.findings().most_neighbors;
  const Tensor table = problem.empty_table(width);
  problem.set_table(args, table);
  problem.run(radius_kernel<T, kLanes>, args);
  return table;
}

template <typename T>
Tensor knn_typed(const Tensor& queries, const Tensor& points, int64_t k,
                 const Tensor& query_lengths, const Tensor& point_lengths) {
  Problem<T> problem(queries, points, query_lengths, point_lengths);
  problem.sort(CellOrder::kMorton, 1);
  SearchArguments<T> args = problem.arguments();
  const Tensor table = problem.empty_table(k);
  problem.set_table(args, table);
  problem.run(knn_kernel<T, kLanes>, args);
  return table;
}

Tensor radius_neighbors(const Tensor& queries, const Tensor& points, double radius,
                        const Tensor& query_lengths, const Tensor& point_lengths,
                        std::optional<int64_t> max_neighbors) {
  KPDEFORM_CHECK(radius > 0 && std::isfinite(radius) && std::isfinite(1 / radius),
                 "radius must be a positive number, got ", radius);
  KPDEFORM_CHECK(max_neighbors.value_or(1) >= 1, "max_neighbors must be at least 1, got ",
                 max_neighbors.value_or(1));
  return queries.scalar_type() == ScalarType::Double
             ? radius_typed<double>(queries, points, radius, query_lengths, point_lengths,
                                    max_neighbors)
             : radius_typed<float>(queries, points, radius, query_lengths, point_lengths,
                                   max_neighbors);
}

Tensor knn_neighbors(const Tensor& queries, const Tensor& points, int64_t k,
                     const Tensor& query_lengths, const Tensor& point_lengths) {
  KPDEFORM_CHECK(k >= 1, "k must be at least 1, got ", k);
  return queries.scalar_type() == ScalarType::Double
             ? knn_typed<double>(queries, points, k, query_lengths, point_lengths)
             : knn_typed<float>(queries, points, k, query_lengths, point_lengths);
}

// Computes one table after another: building an index is cheap here.
std::tuple<Tensor, Tensor, Tensor> level_tables(const Tensor& points, const Tensor& lengths,
                                                double radius, std::optional<int64_t> max_neighbors,
                                                MaybeTensor coarse, MaybeTensor coarse_lengths,
                                                double pool_radius, MaybeTensor fine,
                                                MaybeTensor fine_lengths) {
  KPDEFORM_CHECK(coarse.has_value() == coarse_lengths.has_value() &&
                     fine.has_value() == fine_lengths.has_value(),
                 "coarse and fine need lengths");
  const Tensor neighbors =
      radius_neighbors(points, points, radius, lengths, lengths, max_neighbors);
  const Tensor none = torch::stable::new_empty(neighbors, {0, 0});
  return {neighbors,
          coarse.has_value() ? radius_neighbors(*coarse, points, pool_radius, *coarse_lengths,
                                                lengths, max_neighbors)
                             : none,
          fine.has_value() ? knn_neighbors(*fine, points, 1, *fine_lengths, lengths) : none};
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("radius_neighbors", TORCH_BOX(&radius_neighbors));
  m.impl("knn_neighbors", TORCH_BOX(&knn_neighbors));
  m.impl("level_tables", TORCH_BOX(&level_tables));
}

}  // namespace kpdeform
