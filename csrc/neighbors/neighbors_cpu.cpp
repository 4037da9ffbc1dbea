// radius_neighbors and knn_neighbors on the CPU. Contract: neighbors.h.
#include <cmath>
#include <limits>
#include <optional>

#include "common.h"
#include "neighbors/clouds.h"
#include "neighbors/neighbors.h"
#include "neighbors/parallel.h"

namespace kpdeform {
namespace {

constexpr int64_t kMostRows = 4294967295;  // rows are 32-bit numbers inside
constexpr int64_t kQueriesPerTask = 2048;

// Cells a little larger than the radius: points in reach stay in adjacent cells although x / cell
// is rounded.
double cell_for(double radius) {
  return radius * (1 + 1.0 / 256);
}

// The error of a float32 d2 / radius^2 for cells of the size of the radius is below 30 * 2^-24; it
// grows with the cell.
float slack_for(double radius, double cell) {
  return static_cast<float>(std::ldexp(64.0, -24) * cell / radius);
}

ScalarType index_type(int64_t num_points) {
  return num_points > std::numeric_limits<int32_t>::max() ? ScalarType::Long : ScalarType::Int;
}

Tensor empty_table(const Tensor& like, int64_t rows, int64_t width, ScalarType type) {
  Tensor table = torch::stable::new_empty(like, {rows, width}, type);
  advise_huge_pages(table.mutable_data_ptr(), table.numel() * (type == ScalarType::Long ? 8 : 4));
  return table;
}

template <typename T>
struct Problem {
  Clouds<T> queries, points;
  std::vector<Box> boxes;  // of the clouds of points
  bool same;               // queries are the points
};

template <typename T>
Problem<T> make_problem(const Tensor& queries, const Tensor& points, const Tensor& query_lengths,
                        const Tensor& point_lengths) {
  Problem<T> problem{clouds_of<T>(queries, query_lengths, "queries"),
                     clouds_of<T>(points, point_lengths, "points"),
                     {},
                     false};
  KPDEFORM_CHECK(problem.queries.dims == problem.points.dims,
                 "queries and points differ in dimension");
  KPDEFORM_CHECK(problem.queries.count() == problem.points.count(),
                 "query_lengths and point_lengths differ in length");
  KPDEFORM_CHECK(problem.queries.size() <= kMostRows && problem.points.size() <= kMostRows,
                 "more than 4294967295 rows in one call; search cloud by cloud");
  problem.boxes = bounding_boxes(problem.points, "points");
  problem.same = problem.queries.data == problem.points.data &&
                 problem.queries.offsets == problem.points.offsets;
  if (!problem.same) bounding_boxes(problem.queries, "queries");
  return problem;
}

template <typename T>
Search<T> make_search(const Problem<T>& problem, const CellGrid& grid, const SortedView<T>& queries,
                      const SortedView<T>& points, double radius) {
  Search<T> search{};
  search.points = points;
  search.queries = queries;
  search.clouds = grid.clouds();
  search.outside = grid.outside();
  search.point_rows = problem.points.data;
  search.query_rows = problem.queries.data;
  search.dims = problem.points.dims;
  search.cell = grid.cell();
  search.radius = radius;
  search.slack = slack_for(radius, grid.cell());
  for (const Box& box : problem.boxes)
    for (int d = 0; d < 3; ++d)
      search.distant |= std::max(-box.low[d], box.high[d]) / grid.cell() > kLastCell - 8;
  search.exact = !(radius > 1e-30 && radius < 1e30 && search.slack < 0.25f);
  search.empty = problem.points.size();
  return search;
}

// Searches for all queries on all threads; returns the largest number of neighbours.
template <typename T>
int64_t run(const Search<T>& search) {
  const SortedView<T>& queries = search.queries;
  std::vector<int64_t> tasks{0};  // cells, about kQueriesPerTask queries each
  for (int64_t cell = 0; cell < queries.num_cells; ++cell)
    if (queries.begins[cell + 1] - queries.begins[tasks.back()] >= kQueriesPerTask ||
        cell + 1 == queries.num_cells)
      tasks.push_back(cell + 1);
  const int64_t count = static_cast<int64_t>(tasks.size()) - 1;
  std::vector<int64_t> most(count + 1, 0);
  const int64_t threads = num_parts(queries.begins[queries.num_cells], 2 * kQueriesPerTask);
  parallel_tasks(count, threads, [&](int64_t task) {
    most[task] = KPDEFORM_DISPATCH(search_cells, search, tasks[task], tasks[task + 1]);
  });
  if (std::find(most.begin(), most.end(), kNoMemory) != most.end()) throw std::bad_alloc();
  return *std::max_element(most.begin(), most.end());
}

// Narrows a table to its first `width` columns, in memory of its own.
Tensor first_columns(const Tensor& table, int64_t width) {
  return torch::stable::clone(torch::stable::narrow(const_cast<Tensor&>(table), 1, 0, width));
}

template <typename T>
Tensor radius_typed(const Tensor& queries, const Tensor& points, double radius,
                    const Tensor& query_lengths, const Tensor& point_lengths,
                    int64_t max_neighbors) {
  const Problem<T> problem = make_problem<T>(queries, points, query_lengths, point_lengths);
  const ScalarType type = index_type(problem.points.size());
  const CellGrid grid(problem.points, problem.boxes, cell_for(radius));
  const SortedPoints<T> sorted = grid.sort(problem.points, nullptr, problem.points.size());
  SortedPoints<T> sorted_queries;
  if (!problem.same) sorted_queries = grid.sort(problem.queries, nullptr, problem.queries.size());
  Search<T> search = make_search(
      problem, grid, problem.same ? sorted.view() : sorted_queries.view(), sorted.view(), radius);

  // Rows of known width are written at once; a wide limit is first replaced by the largest count.
  constexpr int64_t kDirectWidth = 128;
  int64_t width = std::min(max_neighbors, problem.points.size());
  if (width > kDirectWidth) width = std::min(width, run(search));
  Tensor table = empty_table(queries, problem.queries.size(), width, type);
  search.table = table.mutable_data_ptr();
  search.wide = type == ScalarType::Long;
  search.width = width;
  const int64_t most = run(search);
  return most < width ? first_columns(table, most) : table;
}

// Edge of a square that holds `wanted` points, were the largest cloud spread over the faces of a
// box. The box is that of nine tenths of a sample, so that outliers do not count.
template <typename T>
double guess_cell(const Clouds<T>& points, double wanted) {
  int64_t begin = 0, count = 0;
  for (int64_t b = 0; b < points.count(); ++b)
    if (points.offsets[b + 1] - points.offsets[b] > count) {
      begin = points.offsets[b];
      count = points.offsets[b + 1] - begin;
    }
  const int64_t size = std::min<int64_t>(count, 2048);
  double extent[3] = {0, 0, 0};
  std::vector<double> sample(size);
  for (int d = 0; d < points.dims; ++d) {
    for (int64_t i = 0; i < size; ++i)
      sample[i] = points.data[(begin + count * i / size) * points.dims + d];
    std::sort(sample.begin(), sample.end());
    extent[d] = (sample[size - 1 - size / 20] - sample[size / 20]) / 0.9;
  }
  const double area = extent[0] * extent[1] + extent[1] * extent[2] + extent[2] * extent[0];
  return std::sqrt(area * wanted / count);
}

// How many points the cell of the median point holds; above 1023 is 1023.
template <typename T>
int64_t median_cell(const SortedPoints<T>& sorted) {
  std::vector<int64_t> points_in(1024, 0);  // cells of as many points
  int64_t count = 0;
  for (int64_t i = 0; i < sorted.num_cells; ++i) {
    const int64_t size = sorted.begins[i + 1] - sorted.begins[i];
    points_in[std::min<int64_t>(size, 1023)] += size;
    count += size;
  }
  int64_t size = 0;
  for (int64_t below = 0; 2 * below < count;) below += points_in[++size];
  return size;
}

// A grid for a k-nearest search. Seen from its points, a cell of a surface should hold a third of
// the 2 k + 4 points that are hoped for within the edge of a cell, but no fewer than fill vectors;
// a wrong guess costs time only.
template <typename T>
CellGrid grid_for_knn(const Problem<T>& problem, int64_t k, SortedPoints<T>& sorted) {
  const double wanted = std::max(6.0, (2 * k + 4) / 3.0);
  double cell = guess_cell(problem.points, wanted);
  if (!(cell > 1e-100 && cell < 1e100)) cell = 1;
  for (int attempt = 0;; ++attempt) {
    CellGrid grid(problem.points, problem.boxes, cell);
    sorted = grid.sort(problem.points, nullptr, problem.points.size());
    const double excess = median_cell(sorted) / wanted;
    if ((excess > 0.4 && excess < 2.5) || attempt == 8) return grid;
    cell = grid.cell() / std::max(std::sqrt(excess), 0.25);
    if (!(cell > 1e-100)) return grid;
  }
}

// The k nearest of all points of the query's cloud, by comparison with each of them.
template <typename T>
void search_all_points(const Problem<T>& problem, int64_t query, int64_t cloud,
                       const Search<T>& search) {
  struct Neighbor {
    double d2;
    int64_t row;
    bool operator<(const Neighbor& other) const {
      return d2 != other.d2 ? d2 < other.d2 : row < other.row;
    }
  };
  std::vector<Neighbor> all;
  for (int64_t row = problem.points.offsets[cloud]; row < problem.points.offsets[cloud + 1];
       ++row) {
    double d2 = 0;
    for (int d = 0; d < search.dims; ++d) {
      const double difference = static_cast<double>(search.query_rows[query * search.dims + d]) -
                                static_cast<double>(search.point_rows[row * search.dims + d]);
      d2 += difference * difference;
    }
    all.push_back({d2, row});
  }
  const int64_t count = std::min<int64_t>(search.width, all.size());
  std::partial_sort(all.begin(), all.begin() + count, all.end());
  for (int64_t slot = 0; slot < count; ++slot) {
    const int64_t i = query * search.width + slot;
    if (search.wide)
      static_cast<int64_t*>(search.table)[i] = all[slot].row;
    else
      static_cast<int32_t*>(search.table)[i] = static_cast<int32_t>(all[slot].row);
  }
}

// Searches spheres that grow until they hold k points. What is left when few queries are, is
// compared with every point.
template <typename T>
Tensor knn_typed(const Tensor& queries, const Tensor& points, int64_t k,
                 const Tensor& query_lengths, const Tensor& point_lengths) {
  const Problem<T> problem = make_problem<T>(queries, points, query_lengths, point_lengths);
  const int64_t num_queries = problem.queries.size(), num_points = problem.points.size();
  const ScalarType type = index_type(num_points);
  Tensor table = empty_table(queries, num_queries, k, type);
  if (num_queries == 0) return table;
  if (num_points == 0) return torch::stable::fill_(table, 0);

  const auto cloud_of = [&](int64_t query) {
    const std::vector<int64_t>& offsets = problem.queries.offsets;
    return std::upper_bound(offsets.begin(), offsets.end(), query) - offsets.begin() - 1;
  };
  const auto cloud_size = [&](int64_t cloud) {
    return problem.points.offsets[cloud + 1] - problem.points.offsets[cloud];
  };
  SortedPoints<T> sorted;
  CellGrid grid = grid_for_knn(problem, k, sorted);
  double reach = std::min(1.0, std::sqrt((2 * k + 4) / (3.0 * median_cell(sorted))));  // in cells
  Buffer<uint32_t> counts(num_queries), pending(num_queries);
  int64_t num_pending = num_queries;
  for (bool first = true;; first = false) {
    const bool same = first && problem.same;
    SortedPoints<T> sorted_queries;
    if (!same)
      sorted_queries = grid.sort(problem.queries, first ? nullptr : pending.get(), num_pending);
    const double radius = reach * grid.cell() / cell_for(1);
    Search<T> search = make_search(problem, grid, same ? sorted.view() : sorted_queries.view(),
                                   sorted.view(), radius);
    search.table = table.mutable_data_ptr();
    search.wide = type == ScalarType::Long;
    search.width = k;
    search.counts = counts.get();
    run(search);

    int64_t left = 0;
    double comparisons = 0;
    for (int64_t i = 0; i < num_pending; ++i) {
      const int64_t query = first ? i : pending[i];
      if (counts[query] >= k) continue;
      const int64_t available = cloud_size(cloud_of(query));
      if (counts[query] == available) continue;
      pending[left++] = static_cast<uint32_t>(query);
      comparisons += available;
    }
    num_pending = left;
    if (comparisons < 4.0 * (num_queries + num_points) || radius > 1e100) {
      parallel_tasks(num_pending, num_threads(), [&](int64_t i) {
        search_all_points(problem, pending[i], cloud_of(pending[i]), search);
      });
      return table;
    }
    if (reach == 1) {
      grid = CellGrid(problem.points, problem.boxes, grid.cell() * 2);
      sorted = grid.sort(problem.points, nullptr, num_points);
    }
    reach = 1;
  }
}

Tensor radius_neighbors(Tensor queries, Tensor points, double radius, Tensor query_lengths,
                        Tensor point_lengths, std::optional<int64_t> max_neighbors) {
  KPDEFORM_CHECK(radius > 0 && std::isfinite(radius) && std::isfinite(1 / cell_for(radius)),
                 "radius must be a positive number, got ", radius);
  const int64_t limit = max_neighbors.value_or(std::numeric_limits<int64_t>::max());
  KPDEFORM_CHECK(limit >= 1, "max_neighbors must be at least 1, got ", limit);
  return queries.scalar_type() == ScalarType::Double
             ? radius_typed<double>(queries, points, radius, query_lengths, point_lengths, limit)
             : radius_typed<float>(queries, points, radius, query_lengths, point_lengths, limit);
}

Tensor knn_neighbors(Tensor queries, Tensor points, int64_t k, Tensor query_lengths,
                     Tensor point_lengths) {
  KPDEFORM_CHECK(k >= 1, "k must be at least 1, got ", k);
  return queries.scalar_type() == ScalarType::Double
             ? knn_typed<double>(queries, points, k, query_lengths, point_lengths)
             : knn_typed<float>(queries, points, k, query_lengths, point_lengths);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("radius_neighbors", TORCH_BOX(&radius_neighbors));
  m.impl("knn_neighbors", TORCH_BOX(&knn_neighbors));
}

}  // namespace kpdeform
