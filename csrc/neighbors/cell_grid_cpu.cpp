#include "neighbors/cell_grid.h"

#include <cmath>
#include <limits>

#include "neighbors/parallel.h"
#include "neighbors/radix_sort.h"

namespace kpdeform {
namespace {

constexpr int64_t kChunk = 16384;  // rows a thread takes at a time

int64_t num_chunks(int64_t count) { return (count + kChunk - 1) / kChunk; }

// Calls body(cloud, begin, end) for the pieces of [begin, end) that lie in one cloud.
template <typename Body>
void for_each_cloud(const std::vector<int64_t>& offsets, int64_t begin, int64_t end, const Body& body) {
  auto next = std::upper_bound(offsets.begin(), offsets.end(), begin);
  for (; begin < end; ++next) {
    const int64_t stop = std::min(end, *next);
    if (begin < stop) body(next - offsets.begin() - 1, begin, stop);
    begin = stop;
  }
}

struct Piece {
  int64_t cloud;
  Box box;
};

}  // namespace

template <typename T>
std::vector<Box> bounding_boxes(const Clouds<T>& clouds, const char* argument) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const Box empty{{kInf, kInf, kInf}, {-kInf, -kInf, -kInf}};
  const int64_t chunks = num_chunks(clouds.size());
  std::vector<std::vector<Piece>> pieces(chunks);
  std::vector<int64_t> bad(chunks, 0);
  parallel_tasks(chunks, num_threads(), [&](int64_t chunk) {
    const int64_t chunk_end = std::min((chunk + 1) * kChunk, clouds.size());
    for_each_cloud(clouds.offsets, chunk * kChunk, chunk_end, [&](int64_t cloud, int64_t begin, int64_t end) {
      T low[3], high[3];
      for (int d = 0; d < clouds.dims; ++d) {
        low[d] = std::numeric_limits<T>::max();
        high[d] = std::numeric_limits<T>::lowest();
      }
      for (int64_t i = begin; i < end; ++i) {
        bool finite = true;
        for (int d = 0; d < clouds.dims; ++d) {
          const T x = clouds.data[i * clouds.dims + d];
          finite &= std::abs(x) <= std::numeric_limits<T>::max();
          low[d] = x < low[d] ? x : low[d];
          high[d] = x > high[d] ? x : high[d];
        }
        bad[chunk] += !finite;
      }
      Piece piece{cloud, {}};
      for (int d = 0; d < 3; ++d) {
        piece.box.low[d] = d < clouds.dims ? low[d] : 0;
        piece.box.high[d] = d < clouds.dims ? high[d] : 0;
      }
      pieces[chunk].push_back(piece);
    });
  });
  int64_t bad_rows = 0;
  for (int64_t rows : bad) bad_rows += rows;
  KPDEFORM_CHECK(bad_rows == 0, argument, " has ", bad_rows, bad_rows == 1 ? " row" : " rows",
                 " with NaN or infinite coordinates (of ", clouds.size(), "); remove them first");
  std::vector<Box> boxes(clouds.count(), empty);
  for (const auto& chunk : pieces)
    for (const Piece& piece : chunk)
      for (int d = 0; d < 3; ++d) {
        Box& box = boxes[piece.cloud];
        box.low[d] = std::min(box.low[d], piece.box.low[d]);
        box.high[d] = std::max(box.high[d], piece.box.high[d]);
      }
  return boxes;
}

int64_t CellGrid::Axis::size() const {
  if (last < first) return 0;
  return (numbers.empty() ? last - first + 3 : numbers.back() + 1) + 2;
}

int64_t CellGrid::Axis::number(int64_t cell) const {
  if (cell < first - 1 || cell > last + 1) return -1;
  if (occupied.empty()) return cell - first + 2;
  const auto above = std::lower_bound(occupied.begin(), occupied.end(), cell);  // first occupied >= cell
  if (above != occupied.end() && *above - cell <= 1) return numbers[above - occupied.begin()] - (*above - cell);
  if (above != occupied.begin() && cell - *(above - 1) == 1) return numbers[above - occupied.begin() - 1] + 1;
  return -1;
}

int64_t CellGrid::cell_of(double x) const {
  const double cell = std::floor(x * inverse_);
  return static_cast<int64_t>(std::min(std::max(cell, -kLastCell), kLastCell));
}

uint64_t CellGrid::key_of(int64_t cloud, double x, double y, double z) const {
  const Axis* axes = &axes_[3 * cloud];
  const int64_t ix = axes[0].number(cell_of(x));
  const int64_t iy = axes[1].number(cell_of(y));
  const int64_t iz = axes[2].number(cell_of(z));
  if ((ix | iy | iz) < 0) return outside_;
  const CloudKeys& keys = clouds_[cloud];
  return keys.base + iz * keys.stride_z + iy * keys.stride_y + ix;
}

// Numbers the cells of every axis from the extent of the clouds.
void CellGrid::place(const std::vector<Box>& boxes) {
  axes_.assign(3 * boxes.size(), Axis());
  for (size_t b = 0; b < boxes.size(); ++b)
    for (int d = 0; d < 3; ++d)
      if (boxes[b].low[d] <= boxes[b].high[d]) {
        axes_[3 * b + d].first = cell_of(boxes[b].low[d]);
        axes_[3 * b + d].last = cell_of(boxes[b].high[d]);
      }
}

// Shortens the empty stretches of every axis to two cells.
template <typename T>
void CellGrid::shorten(const Clouds<T>& points) {
  parallel_tasks(static_cast<int64_t>(axes_.size()), num_threads(), [&](int64_t a) {
    const int64_t cloud = a / 3, d = a % 3;
    Axis& axis = axes_[a];
    if (d >= points.dims || axis.last - axis.first < 4) return;
    std::vector<int64_t> cells;
    for (int64_t i = points.offsets[cloud]; i < points.offsets[cloud + 1]; ++i)
      cells.push_back(cell_of(points.data[i * points.dims + d]));
    std::sort(cells.begin(), cells.end());
    cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
    std::vector<int64_t> numbers(cells.size(), 2);
    for (size_t i = 1; i < cells.size(); ++i)
      numbers[i] = numbers[i - 1] + std::min<int64_t>(3, cells[i] - cells[i - 1]);
    axis.occupied = std::move(cells);
    axis.numbers = std::move(numbers);
  });
}

// Gives every cloud its range of keys; false if they do not fit.
bool CellGrid::number_keys() {
  constexpr double kMostKeys = 4611686018427387904.0;  // 2^62
  const size_t count = axes_.size() / 3;
  clouds_.assign(count + 1, CloudKeys{0, 0, 0});
  double total = 0;
  for (size_t b = 0; b < count; ++b) {
    const int64_t x = axes_[3 * b].size(), y = axes_[3 * b + 1].size(), z = axes_[3 * b + 2].size();
    total += static_cast<double>(x) * y * z;
    if (total > kMostKeys) return false;
    clouds_[b].stride_y = x;
    clouds_[b].stride_z = static_cast<uint64_t>(x) * y;
    clouds_[b + 1].base = clouds_[b].base + clouds_[b].stride_z * z;
  }
  outside_ = clouds_[count].base;
  return true;
}

template <typename T>
CellGrid::CellGrid(const Clouds<T>& points, const std::vector<Box>& boxes, double cell) {
  for (;; cell *= 2) {  // larger cells only cost time; reached with millions of points that share no cell
    cell_ = cell;
    inverse_ = 1 / cell;
    place(boxes);
    if (number_keys()) return;
    shorten(points);
    if (number_keys()) return;
  }
}

template <typename T>
SortedPoints<T> CellGrid::sort(const Clouds<T>& points, const uint32_t* rows, int64_t count) const {
  return outside_ < (uint64_t{1} << 32) ? sort_entries<T, NarrowEntry>(points, rows, count)
                                        : sort_entries<T, WideEntry>(points, rows, count);
}

template <typename T, typename Entry>
SortedPoints<T> CellGrid::sort_entries(const Clouds<T>& points, const uint32_t* rows, int64_t count) const {
  const T* data = points.data;
  const int dims = points.dims;
  const auto coordinate = [&](int64_t row, int d) { return d < dims ? data[row * dims + d] : T(0); };

  Buffer<Entry> entries(count);
  parallel_tasks(num_chunks(count), num_threads(), [&](int64_t chunk) {
    const int64_t end = std::min((chunk + 1) * kChunk, count);
    const auto add = [&](int64_t cloud, int64_t i, int64_t row) {
      entries[i] = Entry(key_of(cloud, coordinate(row, 0), coordinate(row, 1), coordinate(row, 2)),
                         static_cast<uint32_t>(row));
    };
    if (rows == nullptr) {
      for_each_cloud(points.offsets, chunk * kChunk, end, [&](int64_t cloud, int64_t begin, int64_t stop) {
        for (int64_t i = begin; i < stop; ++i) add(cloud, i, i);
      });
    } else {
      for (int64_t i = chunk * kChunk; i < end; ++i) {
        const auto next = std::upper_bound(points.offsets.begin(), points.offsets.end(), rows[i]);
        add(next - points.offsets.begin() - 1, i, rows[i]);
      }
    }
  });
  radix_sort(entries, count, outside_ + 1);

  constexpr int64_t kPadding = 64;
  SortedPoints<T> sorted{Buffer<T>(count + kPadding), Buffer<T>(count + kPadding), Buffer<T>(count + kPadding),
                         Buffer<uint32_t>(count + kPadding), Buffer<uint64_t>(count),
                         Buffer<int64_t>(count + 1)};
  const int64_t chunks = num_chunks(count);
  std::vector<int64_t> first_cell(chunks + 1, 0);  // number of cells that begin in earlier chunks
  const auto begins_cell = [&](int64_t i) { return i == 0 || entries[i].key() != entries[i - 1].key(); };
  parallel_tasks(chunks, num_threads(), [&](int64_t chunk) {
    const int64_t end = std::min((chunk + 1) * kChunk, count);
    for (int64_t i = chunk * kChunk; i < end; ++i) {
      const int64_t row = entries[i].row();
      sorted.x[i] = coordinate(row, 0);
      sorted.y[i] = coordinate(row, 1);
      sorted.z[i] = coordinate(row, 2);
      sorted.rows[i] = static_cast<uint32_t>(row);
      first_cell[chunk + 1] += begins_cell(i);
    }
  });
  for (int64_t i = count; i < count + kPadding; ++i) {
    sorted.x[i] = sorted.y[i] = sorted.z[i] = 0;
    sorted.rows[i] = 0;
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk) first_cell[chunk + 1] += first_cell[chunk];
  sorted.num_cells = first_cell[chunks];
  parallel_tasks(chunks, num_threads(), [&](int64_t chunk) {
    const int64_t end = std::min((chunk + 1) * kChunk, count);
    int64_t cell = first_cell[chunk];
    for (int64_t i = chunk * kChunk; i < end; ++i) {
      if (!begins_cell(i)) continue;
      sorted.keys[cell] = entries[i].key();
      sorted.begins[cell++] = i;
    }
  });
  sorted.begins[sorted.num_cells] = count;
  return sorted;
}

#define KPDEFORM_INSTANTIATE(T)                                                                      \
  template std::vector<Box> bounding_boxes(const Clouds<T>&, const char*);                           \
  template CellGrid::CellGrid(const Clouds<T>&, const std::vector<Box>&, double);                    \
  template SortedPoints<T> CellGrid::sort(const Clouds<T>&, const uint32_t*, int64_t) const;
KPDEFORM_INSTANTIATE(float)
KPDEFORM_INSTANTIATE(double)

}  // namespace kpdeform
