// The search itself: for the queries of a range of cells, find, order and write their neighbours. Contract: neighbors.h.
//
// Per cell of queries: the points of the 27 cells around are gathered once, relative to the centre of the queries and
// in units of the radius, leaving out what is too far from all of them. Per query: float32 distances of these
// candidates, hits compacted, ordered, written.
#include "neighbors/neighbors.h"
#include "neighbors/lanes.h"

#include <stdlib.h>

namespace kpdeform::KPDEFORM_ISA {
namespace {

// Distances are ordered as whole numbers, d2 / radius^2 * kScale; 24 bits are what float32 can tell apart.
constexpr float kScale = 16777216.0f - 256.0f;
constexpr uint32_t kLargestKey = (1u << 24) - 1;

struct Hit {
  uint32_t key;  // rounded distance
  uint32_t row;
};
struct ExactHit {
  double d2;
  uint32_t row;
};

inline bool before(const Hit& a, const Hit& b) { return a.key != b.key ? a.key < b.key : a.row < b.row; }
inline bool before(const ExactHit& a, const ExactHit& b) { return a.d2 != b.d2 ? a.d2 < b.d2 : a.row < b.row; }

template <typename Item>
void sift_down(Item* items, int64_t root, int64_t count) {
  const Item moved = items[root];
  for (int64_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && before(items[child], items[child + 1])) ++child;
    if (!before(moved, items[child])) break;
    items[root] = items[child];
  }
  items[root] = moved;
}

template <typename Item>
void sort_items(Item* items, int64_t count) {
  if (count <= 48) {
    for (int64_t i = 1; i < count; ++i) {
      const Item moved = items[i];
      int64_t j = i;
      for (; j > 0 && before(moved, items[j - 1]); --j) items[j] = items[j - 1];
      items[j] = moved;
    }
    return;
  }
  for (int64_t root = count / 2 - 1; root >= 0; --root) sift_down(items, root, count);
  for (int64_t last = count - 1; last > 0; --last) {
    const Item largest = items[0];
    items[0] = items[last];
    items[last] = largest;
    sift_down(items, 0, last);
  }
}

// Working memory of one task.
struct Scratch {
  float *x = nullptr, *y = nullptr, *z = nullptr;  // candidates
  uint32_t* row = nullptr;
  Hit* hits = nullptr;
  ExactHit* exact = nullptr;
  int64_t capacity = 0;
  char* block = nullptr;

  ~Scratch() { free(block); }
  void reserve(int64_t candidates) {
    candidates += 2 * kLanes;  // vectors may be stored beyond the end
    if (candidates <= capacity) return;
    capacity = candidates * 2;
    free(block);
    block = static_cast<char*>(malloc(capacity * (4 * sizeof(float) + sizeof(Hit) + sizeof(ExactHit))));
    if (block == nullptr) abort();
    exact = reinterpret_cast<ExactHit*>(block);
    hits = reinterpret_cast<Hit*>(exact + capacity);
    x = reinterpret_cast<float*>(hits + capacity);
    y = x + capacity;
    z = y + capacity;
    row = reinterpret_cast<uint32_t*>(z + capacity);
  }
};

struct Run {
  int64_t begin, end;
};

// Follows the 9 runs of points around cells that ascend.
template <typename T>
struct Cursors {
  const Search<T>& search;
  const CloudKeys* cloud;
  int64_t at[9];
  bool placed = false;

  explicit Cursors(const Search<T>& s) : search(s), cloud(s.clouds) {}

  int64_t first_not_below(uint64_t key) const {
    int64_t low = 0, high = search.points.num_cells;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (search.points.keys[middle] < key) low = middle + 1; else high = middle;
    }
    return low;
  }

  // Runs around the cell `key`; returns the number of points in them.
  int64_t move_to(uint64_t key, Run* runs) {
    const SortedView<T>& points = search.points;
    while (cloud[1].base <= key) {
      ++cloud;
      placed = false;
    }
    int64_t total = 0;
    for (int i = 0; i < 9; ++i) {
      const uint64_t middle = key + (i / 3 - 1) * cloud->stride_z + (i % 3 - 1) * cloud->stride_y;
      if (!placed) at[i] = first_not_below(middle - 1);
      while (at[i] < points.num_cells && points.keys[at[i]] < middle - 1) ++at[i];
      int64_t end = at[i];
      while (end < points.num_cells && points.keys[end] <= middle + 1) ++end;
      runs[i] = {points.begins[at[i]], points.begins[end]};
      total += runs[i].end - runs[i].begin;
    }
    placed = true;
    return total;
  }
};

// The box of the queries of one cell: its centre, exact in T, and half its extent in radii.
template <typename T>
struct QueryBox {
  T center[3];
  float half[3];
};

template <typename T>
QueryBox<T> box_of(const Search<T>& search, int64_t begin, int64_t end) {
  const T* axes[3] = {search.queries.x, search.queries.y, search.queries.z};
  QueryBox<T> box;
  for (int d = 0; d < 3; ++d) {
    T low = axes[d][begin], high = low;
    for (int64_t i = begin + 1; i < end; ++i) {
      low = axes[d][i] < low ? axes[d][i] : low;
      high = axes[d][i] > high ? axes[d][i] : high;
    }
    box.center[d] = low / 2 + high / 2;
    const T above = high - box.center[d], below = box.center[d] - low;
    box.half[d] = static_cast<float>((above > below ? above : below) / search.radius);
  }
  return box;
}

template <typename T>
bool beyond_last_cell(const Search<T>& search, const QueryBox<T>& box) {
  for (int d = 0; d < 3; ++d)
    if (__builtin_fabs(static_cast<double>(box.center[d]) * search.inverse_cell) > kLastCell - 4) return true;
  return false;
}

// d2 of the contract. This file is compiled without contraction to fused multiply-adds.
template <typename T>
double exact_d2(const Search<T>& search, int64_t query, int64_t point) {
  const T* q = search.query_rows + query * search.dims;
  const T* p = search.point_rows + point * search.dims;
  double d2 = 0;
  for (int d = 0; d < search.dims; ++d) {
    const double difference = static_cast<double>(q[d]) - static_cast<double>(p[d]);
    d2 += difference * difference;
  }
  return d2;
}

// Copies the points of the runs that may be in reach of the box to the scratch, relative to its centre and in radii.
template <typename T>
int64_t gather(const Search<T>& search, const Run* runs, const QueryBox<T>& box, Scratch& scratch) {
  const SortedView<T>& points = search.points;
  const float scale = static_cast<float>(1 / search.radius);
  const float limit = 1 + 2 * search.slack;
  int64_t count = 0;
  for (int r = 0; r < 9; ++r)
    for (int64_t i = runs[r].begin; i < runs[r].end; i += kLanes) {
      const Floats x = load_relative(points.x + i, box.center[0]) * scale;
      const Floats y = load_relative(points.y + i, box.center[1]) * scale;
      const Floats z = load_relative(points.z + i, box.center[2]) * scale;
      const Floats beyond_x = max(abs(x) - box.half[0], 0);
      const Floats beyond_y = max(abs(y) - box.half[1], 0);
      const Floats beyond_z = max(abs(z) - box.half[2], 0);
      const Floats d2 = beyond_x * beyond_x + beyond_y * beyond_y + beyond_z * beyond_z;
      const Mask near = less(d2, limit) & first_lanes(runs[r].end - i);
      compress(scratch.x + count, x, near);
      compress(scratch.y + count, y, near);
      compress(scratch.z + count, z, near);
      compress(scratch.row + count, load<Words>(points.rows + i), near);
      count += count_lanes(near);
    }
  constexpr float kFar = 1e15f;
  for (int lane = 0; lane < kLanes; ++lane) {
    scratch.x[count + lane] = scratch.y[count + lane] = scratch.z[count + lane] = kFar;
    scratch.row[count + lane] = 0;
  }
  return count;
}

template <typename T>
class CellSearch {
 public:
  explicit CellSearch(const Search<T>& search)
      : search_(search),
        radius2_(search.radius * search.radius),
        slack_(static_cast<uint32_t>(search.slack * kScale) + 2),
        certain_(search.slack < 0.5f ? static_cast<uint32_t>((1 - search.slack) * kScale) - 2 : 0),
        cursors_(search) {}

  int64_t run(int64_t cell) {
    const int64_t begin = search_.queries.begins[cell], end = search_.queries.begins[cell + 1];
    if (search_.queries.keys[cell] == search_.outside) {
      for (int64_t i = begin; i < end; ++i) write_row(search_.queries.rows[i], scratch_.hits, 0);
      return 0;
    }
    Run runs[9];
    scratch_.reserve(cursors_.move_to(search_.queries.keys[cell], runs));
    const QueryBox<T> box = box_of(search_, begin, end);
    const bool exact = search_.exact || beyond_last_cell(search_, box);
    const int64_t candidates = exact ? 0 : gather(search_, runs, box, scratch_);
    int64_t most = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t query = search_.queries.rows[i];
      int64_t count;
      if (exact) {
        count = find_exact(query, runs);
      } else {
        const float scale = static_cast<float>(1 / search_.radius);
        count = find(query, static_cast<float>(search_.queries.x[i] - box.center[0]) * scale,
                     static_cast<float>(search_.queries.y[i] - box.center[1]) * scale,
                     static_cast<float>(search_.queries.z[i] - box.center[2]) * scale, candidates);
      }
      if (search_.table != nullptr && count > search_.width) count = search_.width;
      write_row(query, scratch_.hits, count);
      most = count > most ? count : most;
    }
    return most;
  }

 private:
  // Leaves the neighbours of a query in scratch.hits, in order; returns their number.
  int64_t find(int64_t query, float x, float y, float z, int64_t candidates) {
    const float limit = 1 + search_.slack;
    Hit* hits = scratch_.hits;
    int64_t count = 0;
    for (int64_t i = 0; i < candidates; ++i) {
      const float dx = scratch_.x[i] - x, dy = scratch_.y[i] - y, dz = scratch_.z[i] - z;
      const float d2 = dx * dx + dy * dy + dz * dz;
      if (!(d2 < limit)) continue;
      const uint32_t key = static_cast<uint32_t>(d2 * kScale);
      hits[count++] = {key < kLargestKey ? key : kLargestKey, scratch_.row[i]};
    }
    if (search_.table != nullptr) sort_items(hits, count);
    return settle(query, count);
  }

  // Decides in float64 what float32 left open: hits near the radius, and the order of hits with nearly equal keys.
  int64_t settle(int64_t query, int64_t count) {
    Hit* hits = scratch_.hits;
    int64_t kept = 0;
    for (int64_t begin = 0, end; begin < count; begin = end) {
      end = begin + 1;
      if (search_.table != nullptr)
        while (end < count && hits[end].key - hits[end - 1].key <= slack_) ++end;
      if (end == begin + 1 && hits[begin].key < certain_) {
        hits[kept++] = hits[begin];
        continue;
      }
      int64_t inside = 0;
      for (int64_t i = begin; i < end; ++i) {
        const double d2 = exact_d2(search_, query, hits[i].row);
        if (d2 < radius2_) scratch_.exact[inside++] = {d2, hits[i].row};
      }
      sort_items(scratch_.exact, inside);
      for (int64_t i = 0; i < inside; ++i) hits[kept++].row = scratch_.exact[i].row;
    }
    return kept;
  }

  int64_t find_exact(int64_t query, const Run* runs) {
    int64_t count = 0;
    for (int r = 0; r < 9; ++r)
      for (int64_t i = runs[r].begin; i < runs[r].end; ++i) {
        const uint32_t row = search_.points.rows[i];
        const double d2 = exact_d2(search_, query, row);
        if (d2 < radius2_) scratch_.exact[count++] = {d2, row};
      }
    sort_items(scratch_.exact, count);
    for (int64_t i = 0; i < count; ++i) scratch_.hits[i].row = scratch_.exact[i].row;
    return count;
  }

  template <typename Index>
  void write(Index* slots, const Hit* hits, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) slots[i] = static_cast<Index>(hits[i].row);
    for (int64_t i = count; i < search_.width; ++i) slots[i] = static_cast<Index>(search_.empty);
  }

  void write_row(int64_t query, const Hit* hits, int64_t count) const {
    if (search_.counts != nullptr) search_.counts[query] = static_cast<uint32_t>(count);
    if (search_.table == nullptr) return;
    if (search_.wide)
      write(static_cast<int64_t*>(search_.table) + query * search_.width, hits, count);
    else
      write(static_cast<int32_t*>(search_.table) + query * search_.width, hits, count);
  }

  const Search<T>& search_;
  const double radius2_;
  const uint32_t slack_;    // keys no further apart may be in the wrong order
  const uint32_t certain_;  // a smaller key is inside the radius
  Cursors<T> cursors_;
  Scratch scratch_;
};

template <typename T>
int64_t search_range(const Search<T>& search, int64_t begin, int64_t end) {
  CellSearch<T> cells(search);
  int64_t most = 0;
  for (int64_t cell = begin; cell < end; ++cell) {
    const int64_t count = cells.run(cell);
    most = count > most ? count : most;
  }
  return most;
}

}  // namespace

int64_t search_cells(const Search<float>& search, int64_t begin, int64_t end) {
  return search_range(search, begin, end);
}
int64_t search_cells(const Search<double>& search, int64_t begin, int64_t end) {
  return search_range(search, begin, end);
}

}  // namespace kpdeform::KPDEFORM_ISA
