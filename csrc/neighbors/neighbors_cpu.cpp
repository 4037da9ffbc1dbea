// radius_neighbors, knn_neighbors and level_tables on the CPU. Contract: neighbors.h.
#include <unistd.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "base/common.h"
#include "base/parallel.h"
#include "neighbors/clouds.h"
#include "neighbors/neighbors.h"
#include "neighbors/point_trees.h"

namespace kpdeform {
namespace {

constexpr uint32_t kMostRows = 4294967295;  // rows are 32-bit numbers internally
constexpr int64_t kQueriesPerTask = 2048;

// Cells are a little larger than the radius, so that all points within the radius lie in adjacent
// cells although x / cell is rounded.
double cell_for(double radius) {
  return radius * (1 + 1.0 / 256);
}

// A bound of the error of d2 / radius^2 in float32. For cells of the size of the radius the error
// is below 30 * 2^-24; it grows in proportion to the cell.
float slack_for(double radius, double cell) {
  return static_cast<float>(std::ldexp(64.0, -24) * cell / radius);
}

ScalarType index_type(int64_t num_points) {
  return num_points > std::numeric_limits<int32_t>::max() ? ScalarType::Long : ScalarType::Int;
}

// The physical memory of the machine in bytes.
double physical_memory() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

Tensor empty_table(const Tensor& like, int64_t rows, int64_t width, ScalarType type) {
  const double bytes = double(rows) * double(width) * (type == ScalarType::Long ? 8 : 4);
  constexpr double kGB = 1e9;
  KPDEFORM_CHECK(bytes <= physical_memory(), "out of memory: a table of ", rows, " queries by ",
                 width, " neighbors takes ", std::ceil(bytes / kGB), " GB, but this machine has ",
                 std::floor(physical_memory() / kGB),
                 " GB; pass a smaller max_neighbors, k or radius, or search for fewer queries at "
                 "a time");
  Tensor table = torch::stable::new_empty(like, {rows, width}, type);
  advise_huge_pages(table.mutable_data_ptr(), table.numel() * (type == ScalarType::Long ? 8 : 4));
  return table;
}

// Points sorted by the cells of a grid, for any number of searches with a radius up to the edge
// length of a cell.
template <typename T>
struct Index {
  Clouds<T> points;
  std::vector<Box> boxes;
  CellGrid grid;
  SortedPoints<T> sorted;

  Index(Clouds<T> clouds, std::vector<Box> extents, double cell)
      : points(std::move(clouds)), boxes(std::move(extents)), grid(points, boxes, cell) {
    sorted = grid.sort(points, nullptr, points.size());
  }
};

template <typename T>
Clouds<T> checked_clouds(const Tensor& points, const Tensor& lengths, const char* argument) {
  Clouds<T> clouds = clouds_of<T>(points, lengths, argument);
  KPDEFORM_CHECK(clouds.size() <= kMostRows,
                 "more than 4294967295 rows in one call; search cloud by cloud");
  return clouds;
}

template <typename T>
bool same_clouds(const Clouds<T>& a, const Clouds<T>& b) {
  return a.data == b.data && a.offsets == b.offsets;
}

template <typename T>
Clouds<T> queries_for(const Clouds<T>& points, const Tensor& queries, const Tensor& lengths) {
  Clouds<T> clouds = checked_clouds<T>(queries, lengths, "queries");
  KPDEFORM_CHECK(clouds.dims == points.dims, "queries and points differ in dimension");
  KPDEFORM_CHECK(clouds.count() == points.count(),
                 "query_lengths and point_lengths differ in length");
  if (!same_clouds(clouds, points)) bounding_boxes(clouds, "queries");
  return clouds;
}

template <typename T>
Search<T> make_search(const Clouds<T>& queries, const Index<T>& index,
                      const SortedView<T>& sorted_queries, double radius) {
  const CellGrid& grid = index.grid;
  Search<T> search{};
  search.points = index.sorted.view();
  search.queries = sorted_queries;
  search.clouds = grid.clouds();
  search.outside = grid.outside();
  search.point_rows = index.points.data;
  search.query_rows = queries.data;
  search.dims = index.points.dims;
  search.cell = grid.cell();
  search.radius = radius;
  search.slack = slack_for(radius, grid.cell());
  for (const Box& box : index.boxes)
    for (int d = 0; d < 3; ++d)
      search.distant |= std::max(-box.low[d], box.high[d]) / grid.cell() > kLastCell - 8;
  search.exact = !(radius > 1e-30 && radius < 1e30 && search.slack < 0.25f);
  search.empty = index.points.size();
  return search;
}

// Searches for all queries, cell by cell, on all threads; returns the largest number of neighbours.
// Appends to `left` the queries that kd-trees have to answer.
template <typename T>
int64_t search_grid(Search<T> search, int64_t num_queries, std::vector<uint32_t>& left) {
  const SortedView<T>& queries = search.queries;
  std::vector<int64_t> tasks{0};  // first cell of each task of about kQueriesPerTask queries
  for (int64_t cell = 0; cell < queries.num_cells; ++cell)
    if (queries.begins[cell + 1] - queries.begins[tasks.back()] >= kQueriesPerTask ||
        cell + 1 == queries.num_cells)
      tasks.push_back(cell + 1);
  const int64_t count = static_cast<int64_t>(tasks.size()) - 1;
  std::vector<int64_t> most(count + 1, 0);
  std::vector<uint8_t> is_left(num_queries, 0);
  search.left = is_left.data();
  const int64_t size = queries.begins[queries.num_cells];
  parallel_tasks(count, num_parts(size, 2 * kQueriesPerTask), [&](int64_t task) {
    most[task] = KPDEFORM_DISPATCH(search_cells, search, tasks[task], tasks[task + 1]);
  });
  if (std::find(most.begin(), most.end(), kNoMemory) != most.end()) throw std::bad_alloc();
  for (int64_t i = 0; i < size; ++i)
    if (is_left[queries.rows[i]] != 0) left.push_back(queries.rows[i]);
  return *std::max_element(most.begin(), most.end());
}

template <typename T>
void write_row(const Search<T>& search, int64_t query, const std::vector<TreeNeighbor>& found) {
  const int64_t size = static_cast<int64_t>(found.size()), first = query * search.width;
  for (int64_t slot = 0; slot < search.width; ++slot) {
    const int64_t row = slot < size ? int64_t{found[slot].row} : search.empty;
    if (search.wide)
      static_cast<int64_t*>(search.table)[first + slot] = row;
    else
      static_cast<int32_t*>(search.table)[first + slot] = static_cast<int32_t>(row);
  }
}

// Answers the queries `rows` from kd-trees; only neighbours that come before `limit` count. Returns
// the largest number of neighbours.
template <typename T>
int64_t search_trees(const Search<T>& search, const Clouds<T>& queries, const Clouds<T>& points,
                     const std::vector<uint32_t>& rows, const TreeNeighbor& limit) {
  const int64_t count = static_cast<int64_t>(rows.size());
  if (count == 0) return 0;
  std::vector<int64_t> clouds(count), queries_in(queries.count(), 0);
  for (int64_t i = 0; i < count; ++i) {
    clouds[i] = queries.cloud_of(rows[i]);
    ++queries_in[clouds[i]];
  }
  const PointTrees<T> trees(points, queries_in);

  constexpr int64_t kQueriesPerTreeTask = 64;
  std::vector<int64_t> most((count + kQueriesPerTreeTask - 1) / kQueriesPerTreeTask, 0);
  parallel_tasks(static_cast<int64_t>(most.size()), num_threads(), [&](int64_t task) {
    std::vector<TreeNeighbor> found;
    const int64_t end = std::min(count, (task + 1) * kQueriesPerTreeTask);
    for (int64_t i = task * kQueriesPerTreeTask; i < end; ++i) {
      const T* query = queries.data + int64_t{rows[i]} * queries.dims;
      if (search.table == nullptr) {
        most[task] = std::max(most[task], trees.count(query, clouds[i], limit.d2));
      } else {
        trees.find(query, clouds[i], limit, search.width, found);
        write_row(search, rows[i], found);
        most[task] = std::max(most[task], static_cast<int64_t>(found.size()));
      }
    }
  });
  return *std::max_element(most.begin(), most.end());
}

// Copies the first `width` columns of a table to memory of their own.
Tensor first_columns(const Tensor& table, int64_t width) {
  return torch::stable::clone(torch::stable::narrow(const_cast<Tensor&>(table), 1, 0, width));
}

template <typename T>
Tensor radius_table(const Clouds<T>& queries, const Index<T>& index, double radius,
                    int64_t max_neighbors, const Tensor& like) {
  const int64_t num_points = index.points.size();
  const ScalarType type = index_type(num_points);
  const bool same = same_clouds(queries, index.points);
  SortedPoints<T> sorted_queries;
  if (!same) sorted_queries = index.grid.sort(queries, nullptr, queries.size());
  Search<T> search =
      make_search(queries, index, same ? index.sorted.view() : sorted_queries.view(), radius);

  // A point at exactly the radius is outside: it has d2 == limit.d2, and no row comes before row 0.
  const TreeNeighbor limit{radius * radius, 0};
  const auto run = [&] {
    std::vector<uint32_t> left;
    const int64_t most = search_grid(search, queries.size(), left);
    return std::max(most, search_trees(search, queries, index.points, left, limit));
  };

  // A table of moderate width is written at once and narrowed afterwards. For a wide limit, a first
  // search counts, and the largest count becomes the width.
  constexpr int64_t kDirectWidth = 128;
  int64_t width = std::min(max_neighbors, num_points);
  if (width > kDirectWidth) width = std::min(width, run());
  Tensor table = empty_table(like, queries.size(), width, type);
  search.table = table.mutable_data_ptr();
  search.wide = type == ScalarType::Long;
  search.width = width;
  const int64_t most = run();
  return most < width ? first_columns(table, most) : table;
}

// The edge length of a square that would hold `wanted` points if the largest cloud were spread over
// the faces of its bounding box. The box covers the central nine tenths of a sample, so that
// outliers do not count.
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

// The number of points in the cell of the median point, at most 1023.
template <typename T>
int64_t median_cell(const SortedPoints<T>& sorted) {
  std::vector<int64_t> points_in(1024, 0);  // points in cells that hold this many points
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

// Builds the index for a k-nearest search. A cell on a surface should hold a third of the 2 k + 4
// points that the search hopes to find within one cell edge, but enough to fill vectors. A wrong
// guess only costs time.
template <typename T>
Index<T> index_for_knn(const Clouds<T>& points, int64_t k) {
  const double wanted = std::max(6.0, (2 * k + 4) / 3.0);
  const std::vector<Box> boxes = bounding_boxes(points, "points");
  double cell = points.size() == 0 ? 1 : guess_cell(points, wanted);
  if (!(cell > 1e-100 && cell < 1e100)) cell = 1;
  for (int attempt = 0;; ++attempt) {
    Index<T> index(points, boxes, cell);
    const double excess = median_cell(index.sorted) / wanted;
    if ((excess > 0.4 && excess < 2.5) || attempt == 8 || points.size() == 0) return index;
    cell = index.grid.cell() / std::max(std::sqrt(excess), 0.25);
    if (!(cell > 1e-100)) return index;
  }
}

// Searches growing spheres, and enlarges the cells with them, as long as that completes most
// queries. Kd-trees answer the rest. Any cell size gives the same result; it only affects the time.
template <typename T>
Tensor knn_table(const Clouds<T>& queries, const Index<T>& index, int64_t k, const Tensor& like) {
  const int64_t num_queries = queries.size(), num_points = index.points.size();
  const ScalarType type = index_type(num_points);
  Tensor table = empty_table(like, num_queries, k, type);
  if (num_queries == 0) return table;
  if (num_points == 0) return torch::stable::fill_(table, 0);

  constexpr int64_t kFew = 16;
  const double hoped_for = (2 * k + 4) / (3.0 * median_cell(index.sorted));
  double reach = std::min(1.0, std::sqrt(hoped_for));  // search radius, in cells
  const Buffer<uint32_t> counts(num_queries);
  const auto is_incomplete = [&](uint32_t query) {
    if (counts[query] >= k) return false;
    const int64_t cloud = queries.cloud_of(query);
    return counts[query] < index.points.offsets[cloud + 1] - index.points.offsets[cloud];
  };
  std::vector<uint32_t> left, pending(num_queries);
  std::iota(pending.begin(), pending.end(), 0u);
  Search<T> search;
  std::optional<Index<T>> larger;
  for (bool first = true;; first = false) {
    const Index<T>& current = larger ? *larger : index;
    const bool same = first && same_clouds(queries, index.points);
    const int64_t num_pending = static_cast<int64_t>(pending.size());
    SortedPoints<T> sorted_queries;
    if (!same)
      sorted_queries = current.grid.sort(queries, first ? nullptr : pending.data(), num_pending);
    search = make_search(queries, current, same ? index.sorted.view() : sorted_queries.view(),
                         reach * current.grid.cell() / cell_for(1));
    search.table = table.mutable_data_ptr();
    search.wide = type == ScalarType::Long;
    search.width = k;
    search.counts = counts.get();
    const size_t left_before = left.size();
    search_grid(search, num_queries, left);
    for (size_t i = left_before; i < left.size(); ++i) counts[left[i]] = ~0u;  // no longer pending

    std::erase_if(pending, [&](uint32_t query) { return !is_incomplete(query); });
    const int64_t num_incomplete = static_cast<int64_t>(pending.size());
    if (num_incomplete < kFew || (larger && 2 * num_incomplete > num_pending)) break;
    if (reach == 1) larger.emplace(index.points, index.boxes, current.grid.cell() * 2);
    reach = 1;
  }
  left.insert(left.end(), pending.begin(), pending.end());
  constexpr double kAnyDistance = std::numeric_limits<double>::infinity();
  search_trees(search, queries, index.points, left, {kAnyDistance, kMostRows});
  return table;
}

template <typename T>
Tensor radius_typed(const Tensor& queries, const Tensor& points, double radius,
                    const Tensor& query_lengths, const Tensor& point_lengths, int64_t limit) {
  const Clouds<T> clouds = checked_clouds<T>(points, point_lengths, "points");
  const Index<T> index(clouds, bounding_boxes(clouds, "points"), cell_for(radius));
  return radius_table(queries_for(clouds, queries, query_lengths), index, radius, limit, queries);
}

template <typename T>
Tensor knn_typed(const Tensor& queries, const Tensor& points, int64_t k,
                 const Tensor& query_lengths, const Tensor& point_lengths) {
  const Clouds<T> clouds = checked_clouds<T>(points, point_lengths, "points");
  const Index<T> index = index_for_knn(clouds, k);
  return knn_table(queries_for(clouds, queries, query_lengths), index, k, queries);
}

using LevelTables = std::tuple<Tensor, Tensor, Tensor>;

template <typename T>
LevelTables level_typed(const Tensor& points, const Tensor& lengths, double radius, int64_t limit,
                        const std::optional<Tensor>& coarse,
                        const std::optional<Tensor>& coarse_lengths, double pool_radius,
                        const std::optional<Tensor>& fine,
                        const std::optional<Tensor>& fine_lengths) {
  const Clouds<T> clouds = checked_clouds<T>(points, lengths, "points");
  const std::vector<Box> boxes = bounding_boxes(clouds, "points");
  const Index<T> index(clouds, boxes, cell_for(radius));
  Tensor neighbors = radius_table(clouds, index, radius, limit, points);
  Tensor pools = empty_table(points, 0, 0, ScalarType::Int), upsamples = pools;
  if (coarse) {
    KPDEFORM_CHECK(coarse_lengths, "coarse_lengths is missing");
    const Clouds<T> queries = queries_for(clouds, *coarse, *coarse_lengths);
    if (pool_radius == radius)
      pools = radius_table(queries, index, radius, limit, points);
    else
      pools = radius_table(queries, Index<T>(clouds, boxes, cell_for(pool_radius)), pool_radius,
                           limit, points);
  }
  if (fine) {
    KPDEFORM_CHECK(fine_lengths, "fine_lengths is missing");
    upsamples = knn_table(queries_for(clouds, *fine, *fine_lengths), index, 1, points);
  }
  return {neighbors, pools, upsamples};
}

void check_radius(double radius, int64_t limit) {
  KPDEFORM_CHECK(radius > 0 && std::isfinite(radius) && std::isfinite(1 / cell_for(radius)),
                 "radius must be a positive number, got ", radius);
  KPDEFORM_CHECK(limit >= 1, "max_neighbors must be at least 1, got ", limit);
}

Tensor radius_neighbors(Tensor queries, Tensor points, double radius, Tensor query_lengths,
                        Tensor point_lengths, std::optional<int64_t> max_neighbors) {
  const int64_t limit = max_neighbors.value_or(std::numeric_limits<int64_t>::max());
  check_radius(radius, limit);
  return queries.scalar_type() == ScalarType::Double
             ? radius_typed<double>(queries, points, radius, query_lengths, point_lengths, limit)
             : radius_typed<float>(queries, points, radius, query_lengths, point_lengths, limit);
}

Tensor knn_neighbors(Tensor queries, Tensor points, int64_t k, Tensor query_lengths,
                     Tensor point_lengths) {
  KPDEFORM_CHECK(k >= 1 && k <= std::numeric_limits<int32_t>::max(),
                 "k must be from 1 to 2147483647, got ", k);
  return queries.scalar_type() == ScalarType::Double
             ? knn_typed<double>(queries, points, k, query_lengths, point_lengths)
             : knn_typed<float>(queries, points, k, query_lengths, point_lengths);
}

LevelTables level_tables(Tensor points, Tensor lengths, double radius,
                         std::optional<int64_t> max_neighbors, std::optional<Tensor> coarse,
                         std::optional<Tensor> coarse_lengths, double pool_radius,
                         std::optional<Tensor> fine, std::optional<Tensor> fine_lengths) {
  const int64_t limit = max_neighbors.value_or(std::numeric_limits<int64_t>::max());
  check_radius(radius, limit);
  check_radius(pool_radius, limit);
  return points.scalar_type() == ScalarType::Double
             ? level_typed<double>(points, lengths, radius, limit, coarse, coarse_lengths,
                                   pool_radius, fine, fine_lengths)
             : level_typed<float>(points, lengths, radius, limit, coarse, coarse_lengths,
                                  pool_radius, fine, fine_lengths);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("radius_neighbors", TORCH_BOX(&radius_neighbors));
  m.impl("knn_neighbors", TORCH_BOX(&knn_neighbors));
  m.impl("level_tables", TORCH_BOX(&level_tables));
}

}  // namespace kpdeform
