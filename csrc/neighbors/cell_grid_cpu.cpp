#include <cmath>
#include <limits>

#include "base/parallel.h"
#include "neighbors/cell_grid.h"
#include "neighbors/key_sort.h"

namespace kpdeform {

template <typename T>
std::vector<Box> bounding_boxes(const Clouds<T>& clouds, const char* argument) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  std::vector<Box> boxes(clouds.count(), Box{{kInf, kInf, kInf}, {-kInf, -kInf, -kInf}});
  bool finite = true;
  for (int64_t b = 0; b < clouds.count(); ++b) {
    const int64_t begin = clouds.offsets[b], count = clouds.offsets[b + 1] - begin;
    if (count == 0) continue;
    boxes[b].low[2] = boxes[b].high[2] = 0;
    finite &= KPDEFORM_DISPATCH(extent, clouds.data + begin * clouds.dims, count, clouds.dims,
                                boxes[b].low, boxes[b].high);
  }
  if (finite) return boxes;
  int64_t bad_rows = 0;
  for (int64_t row = 0; row < clouds.size(); ++row) {
    const T* x = clouds.data + row * clouds.dims;
    bad_rows += !(std::isfinite(x[0]) && std::isfinite(x[1]) && std::isfinite(x[clouds.dims - 1]));
  }
  fail_check(argument, " has ", bad_rows, bad_rows == 1 ? " row" : " rows",
             " with NaN or infinite coordinates (of ", clouds.size(), "); remove them first");
}

int64_t CellGrid::Axis::size() const {
  if (last < first) return 0;
  return (numbers.empty() ? last - first + 3 : numbers.back() + 1) + 2;
}

int64_t CellGrid::Axis::number(int64_t cell) const {
  if (cell < first - 1 || cell > last + 1) return -1;
  if (numbers.empty()) return cell - first + 2;
  const auto above = std::lower_bound(occupied.begin(), occupied.end(), cell);  // occupied, >= cell
  const auto number_of = [&](auto place) { return numbers[place - occupied.begin()]; };
  if (above != occupied.end() && *above - cell <= 1) return number_of(above) - (*above - cell);
  if (above != occupied.begin() && cell - above[-1] == 1) return number_of(above - 1) + 1;
  return -1;
}

int64_t CellGrid::cell_of(double x) const {
  return static_cast<int64_t>(std::floor(std::min(std::max(x / cell_, -kLastCell), kLastCell)));
}

// Sets the range of cells of every axis from the bounding boxes of the clouds.
void CellGrid::place(const std::vector<Box>& boxes) {
  axes_.assign(3 * boxes.size(), Axis());
  for (size_t b = 0; b < boxes.size(); ++b)
    for (int d = 0; d < 3; ++d)
      if (boxes[b].low[d] <= boxes[b].high[d]) {
        axes_[3 * b + d].first = cell_of(boxes[b].low[d]);
        axes_[3 * b + d].last = cell_of(boxes[b].high[d]);
      }
}

// Shortens runs of empty cells along every axis to two cells.
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

// Assigns every cloud its range of keys. Returns false if more than `most` keys are needed.
bool CellGrid::number_keys(double most) {
  const size_t count = axes_.size() / 3;
  clouds_.assign(count + 1, CloudKeys{0, 0, 0});
  double total = 0;
  for (size_t b = 0; b < count; ++b) {
    const int64_t x = axes_[3 * b].size(), y = axes_[3 * b + 1].size(), z = axes_[3 * b + 2].size();
    total += static_cast<double>(x) * y * z;
    if (total > most) return false;
    clouds_[b].stride_y = x;
    clouds_[b].stride_z = static_cast<uint64_t>(x) * y;
    clouds_[b + 1].base = clouds_[b].base + clouds_[b].stride_z * z;
  }
  outside_ = clouds_[count].base;
  return true;
}

template <typename T>
CellGrid::CellGrid(const Clouds<T>& points, const std::vector<Box>& boxes, double cell) {
  constexpr double kFit = 4611686018427387904.0;  // 2^62
  const double dense = std::min(1024.0 * (points.size() + 1024), kMostCells / 2);
  for (;; cell *= 2) {  // larger cells only cost time; rarely repeated
    cell_ = cell;
    place(boxes);
    shortened_ = !number_keys(dense);
    if (!shortened_) return;
    shorten(points);
    if (number_keys(kFit)) return;
  }
}

// Computes the keys of `count` points of one cloud.
template <typename T>
void CellGrid::keys_of(int64_t cloud, const T* x, int64_t count, int dims, uint64_t* keys) const {
  const Axis* axes = &axes_[3 * cloud];
  const CloudKeys& range = clouds_[cloud];
  if (axes[0].size() == 0) {
    std::fill_n(keys, count, outside_);
  } else if (shortened_) {
    for (int64_t i = 0; i < count; ++i, x += dims) {
      const int64_t ix = axes[0].number(cell_of(x[0])), iy = axes[1].number(cell_of(x[1]));
      const int64_t iz = axes[2].number(dims == 3 ? cell_of(x[2]) : 0);
      const uint64_t key = range.base + iz * range.stride_z + iy * range.stride_y + ix;
      keys[i] = (ix | iy | iz) < 0 ? outside_ : key;
    }
  } else {
    const double strides[3] = {1.0, double(range.stride_y), double(range.stride_z)};
    CellRange cells{};
    cells.cell = cell_;
    cells.low = 1;  // the cell before the first occupied one, which has number 2
    cells.base = static_cast<double>(range.base) + (dims == 2 ? 2 * strides[2] : 0);
    cells.outside = static_cast<double>(outside_);
    for (int d = 0; d < 3; ++d) {
      cells.first[d] = static_cast<double>(axes[d].first - 2);
      cells.high[d] = static_cast<double>(axes[d].size() - 2);
      cells.stride[d] = strides[d];
    }
    KPDEFORM_DISPATCH(cell_keys, x, count, dims, cells, keys);
  }
}

template <typename T>
SortedPoints<T> CellGrid::sort(const Clouds<T>& points, const uint32_t* rows, int64_t count) const {
  return outside_ < (uint64_t{1} << 32) ? sort_with<T, uint32_t>(points, rows, count)
                                        : sort_with<T, uint64_t>(points, rows, count);
}

template <typename T, typename Key>
SortedPoints<T> CellGrid::sort_with(const Clouds<T>& points, const uint32_t* rows,
                                    int64_t count) const {
  const int dims = points.dims;
  const std::vector<int64_t>& offsets = points.offsets;
  const auto row_of = [&](int64_t i) { return rows == nullptr ? i : int64_t{rows[i]}; };
  const auto add_keys = [&](int64_t begin, int64_t end, uint64_t* keys) {
    for (int64_t i = begin, next; i < end; i = next) {
      const int64_t row = row_of(i);
      const auto above = std::upper_bound(offsets.begin(), offsets.end(), row);
      next = rows == nullptr ? std::min(end, *above) : i + 1;
      keys_of(above - offsets.begin() - 1, points.data + row * dims, next - i, dims, keys + i);
    }
  };
  const auto item_of = [rows, dims, data = points.data](int64_t i) {
    const int64_t row = rows == nullptr ? i : int64_t{rows[i]};
    const T* x = data + row * dims;
    return Item<T, Key>{x[0], x[1], dims == 3 ? x[2] : T(0), static_cast<uint32_t>(row), 0};
  };
  const Buffer<uint64_t> keys(count);
  const auto buckets = deal<T, Key>(count, outside_ + 1, keys.get(), add_keys, item_of);

  constexpr int64_t kPadding = 64;
  SortedPoints<T> sorted{Buffer<T>(count + kPadding), Buffer<T>(count + kPadding),
                         Buffer<T>(count + kPadding), Buffer<uint32_t>(count + kPadding),
                         Buffer<uint64_t>(count + 8), Buffer<int64_t>(count + 1)};
  std::vector<int64_t> cells(buckets.size(), 0);  // number of cells per bucket
  struct Scratch {
    KeyRanks ranks;
    std::vector<uint32_t> numbers, next;
  };
  for_each_bucket<Scratch>(buckets, [&](int64_t bucket, Scratch& scratch) {
    const int64_t begin = buckets.begins[bucket], size = buckets.begins[bucket + 1] - begin;
    const Item<T, Key>* const items = buckets.items.get() + begin;
    scratch.numbers.resize(size);
    uint32_t* const numbers = scratch.numbers.data();
    cells[bucket] = scratch.ranks.rank(items, size, buckets.shift, numbers);
    scratch.next.assign(cells[bucket], 0);
    uint32_t* const next = scratch.next.data();
    for (int64_t i = 0; i < size; ++i) ++next[numbers[i]];
    counts_to_begins(scratch.next);
    for (int64_t cell = 0; cell < cells[bucket]; ++cell)
      sorted.begins[begin + cell] = begin + next[cell];
    for (int64_t i = 0; i < size; ++i) {
      const Item<T, Key> item = items[i];
      const int64_t place = begin + next[numbers[i]]++;
      sorted.x[place] = item.x;
      sorted.y[place] = item.y;
      sorted.z[place] = item.z;
      sorted.rows[place] = item.row;
      sorted.keys[begin + numbers[i]] = static_cast<uint64_t>(bucket) << buckets.shift | item.key;
    }
  });
  for (int64_t bucket = 0; bucket < buckets.size(); ++bucket) {
    const int64_t begin = buckets.begins[bucket];
    std::copy_n(sorted.keys.get() + begin, cells[bucket], sorted.keys.get() + sorted.num_cells);
    std::copy_n(sorted.begins.get() + begin, cells[bucket], sorted.begins.get() + sorted.num_cells);
    sorted.num_cells += cells[bucket];
  }
  sorted.begins[sorted.num_cells] = count;
  std::fill_n(sorted.keys.get() + sorted.num_cells, 8, ~uint64_t{0});
  for (int64_t i = count; i < count + kPadding; ++i) {
    sorted.x[i] = sorted.y[i] = sorted.z[i] = 0;
    sorted.rows[i] = 0;
  }
  return sorted;
}

#define KPDEFORM_INSTANTIATE(T)                                                   \
  template std::vector<Box> bounding_boxes(const Clouds<T>&, const char*);        \
  template CellGrid::CellGrid(const Clouds<T>&, const std::vector<Box>&, double); \
  template SortedPoints<T> CellGrid::sort(const Clouds<T>&, const uint32_t*, int64_t) const;
KPDEFORM_INSTANTIATE(float)
KPDEFORM_INSTANTIATE(double)

}  // namespace kpdeform
