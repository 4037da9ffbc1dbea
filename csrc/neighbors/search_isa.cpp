// The search kernels: for the queries of a range of cells, they find, order and write the
// neighbours. Contract: neighbors.h.
//
// For each cell of queries, the points of the 27 cells around it are gathered once, relative to the
// centre of the queries and in units of the radius; points that are too far from all of the queries
// are left out. (Cells with few queries skip this step, which does not pay off for them.) For each
// query, the float32 distances of these candidates are computed, and the hits are compacted,
// ordered and written.
#include <stdlib.h>

#include "neighbors/lanes.h"
#include "neighbors/neighbors.h"
#include "neighbors/sort_network.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

// Hits are ordered by an integer key, d2 / radius^2 * kScale, of 24 bits: the precision of float32.
constexpr float kScale = 16777216.0f - 256.0f;
constexpr uint32_t kLargestKey = (1u << 24) - 1;

// Up to this many hits are sorted in registers, as words of 24 bits of distance and 8 bits of the
// hit's number.
constexpr int64_t kSortable = kMostVectors * kLanes < 256 ? kMostVectors * kLanes : 256;
constexpr uint32_t kNumberBits = 8;
constexpr uint32_t kNumberMask = (1 << kNumberBits) - 1;

// Queries with more points than this in the cells around them, or with more hits that float32
// cannot order, are left to the kd-trees. The limits grow with the width of the table.
constexpr int64_t kMostAround = 4096, kMostAroundPerNeighbor = 64;
constexpr int64_t kMostUnordered = 1024, kMostUnorderedPerNeighbor = 8;

// A neighbour and its d2 in float64.
struct Neighbor {
  double d2;
  uint32_t row;
};

inline bool before(const Neighbor& a, const Neighbor& b) {
  return a.d2 != b.d2 ? a.d2 < b.d2 : a.row < b.row;
}

// Restores the heap property, with the largest neighbour on top, after its root changed.
void sift_down(Neighbor* heap, int64_t root, int64_t count) {
  const Neighbor moved = heap[root];
  for (int64_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && before(heap[child], heap[child + 1])) ++child;
    if (!before(moved, heap[child])) break;
    heap[root] = heap[child];
  }
  heap[root] = moved;
}

// Moves the first `wanted` neighbours to the front, in order. Returns their number, which is
// smaller if there are fewer.
int64_t put_first(Neighbor* all, int64_t count, int64_t wanted) {
  if (count <= 32) {
    for (int64_t i = 1; i < count; ++i) {
      const Neighbor moved = all[i];
      int64_t j = i;
      for (; j > 0 && before(moved, all[j - 1]); --j) all[j] = all[j - 1];
      all[j] = moved;
    }
    return count < wanted ? count : wanted;
  }
  const int64_t size = count < wanted ? count : wanted;
  for (int64_t root = size / 2 - 1; root >= 0; --root) sift_down(all, root, size);
  for (int64_t i = size; i < count; ++i)
    if (before(all[i], all[0])) {
      all[0] = all[i];
      sift_down(all, 0, size);
    }
  for (int64_t last = size - 1; last > 0; --last) {
    const Neighbor largest = all[0];
    all[0] = all[last];
    all[last] = largest;
    sift_down(all, 0, last);
  }
  return size;
}

inline void swap(uint32_t*& a, uint32_t*& b) {
  uint32_t* const old = a;
  a = b;
  b = old;
}

// Working memory of one task.
struct Scratch {
  float *x = nullptr, *y = nullptr, *z = nullptr;  // candidates
  uint32_t* row = nullptr;
  uint32_t *key = nullptr, *hit = nullptr;  // hits of the current query, unordered: keys and rows
  uint32_t *next_key = nullptr, *next_hit = nullptr;  // hits of the next query
  Neighbor* exact = nullptr;
  int64_t capacity = 0;
  char* block = nullptr;

  ~Scratch() { free(block); }

  // Whole vectors are read and stored beyond the end, and padding keys make look_up read entry
  // kNumberMask.
  bool holds(int64_t candidates) const {
    return candidates + kNumberMask + 1 + 2 * kLanes <= capacity;
  }

  bool make(int64_t candidates) {
    capacity = 2 * (candidates + kNumberMask + 1 + 2 * kLanes);
    free(block);
    block = static_cast<char*>(malloc(capacity * (8 * sizeof(float) + sizeof(Neighbor))));
    if (block == nullptr) return false;
    exact = reinterpret_cast<Neighbor*>(block);
    x = reinterpret_cast<float*>(exact + capacity);
    y = x + capacity;
    z = y + capacity;
    row = reinterpret_cast<uint32_t*>(z + capacity);
    key = row + capacity;
    hit = key + capacity;
    next_key = hit + capacity;
    next_hit = next_key + capacity;
    return true;
  }
};

struct Run {
  int64_t begin, end;
};

// Tracks the 9 runs of points around a cell while the cells ascend.
template <typename T>
struct Cursors {
  const Search<T>& search;
  const CloudKeys* cloud;
  int64_t at[9];
  bool placed = false;

  explicit Cursors(const Search<T>& s) : search(s), cloud(s.clouds) {}

  // The first cell whose key is not below `key`, by binary search.
  int64_t search_first(uint64_t key) const {
    int64_t low = 0, high = search.points.num_cells;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (search.points.keys[middle] < key)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  // Finds the runs around the cell `key`; returns the number of points in them.
  int64_t move_to(uint64_t key, Run* runs) {
    const SortedView<T>& points = search.points;
    while (cloud[1].base <= key) {
      ++cloud;
      placed = false;
    }
    int64_t total = 0;
    for (int i = 0; i < 9; ++i) {
      const uint64_t middle = key + (i / 3 - 1) * cloud->stride_z + (i % 3 - 1) * cloud->stride_y;
      if (!placed) at[i] = search_first(middle - 1);
      at[i] = first_not_below(points.keys, at[i], middle - 1);
      const int64_t end = first_not_below(points.keys, at[i], middle + 2);
      runs[i] = {points.begins[at[i]], points.begins[end]};
      total += runs[i].end - runs[i].begin;
    }
    placed = true;
    return total;
  }
};

// The bounding box of the queries of one cell: its centre in T, and half of its extent in units of
// the radius.
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
    if (__builtin_fabs(static_cast<double>(box.center[d]) / search.cell) > kLastCell - 4)
      return true;
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

// Copies the points of the runs that may be within the radius of the box to the scratch, relative
// to the centre of the box and in units of the radius.
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
        certain_(static_cast<uint32_t>((1 - search.slack) * kScale) - 2),
        empty_(static_cast<uint32_t>(search.empty)),
        cursors_(search),
        row_(static_cast<uint32_t*>(malloc((search.width + kLanes) * sizeof(uint32_t)))) {}
  ~CellSearch() { free(row_); }

  // Searches for the queries of a cell; returns the largest number of neighbours, or kNoMemory.
  int64_t run(int64_t cell) {
    if (row_ == nullptr) return kNoMemory;
    const int64_t begin = search_.queries.begins[cell], end = search_.queries.begins[cell + 1];
    if (search_.queries.keys[cell] == search_.outside) {
      if (search_.table != nullptr)
        for (int64_t i = begin; i < end; ++i) fill_and_write(search_.queries.rows[i], 0);
      return 0;
    }
    Run runs[9];
    const int64_t around = cursors_.move_to(search_.queries.keys[cell], runs);
    if (around > kMostAround + kMostAroundPerNeighbor * search_.width) {
      for (int64_t i = begin; i < end; ++i) search_.left[search_.queries.rows[i]] = 1;
      return 0;
    }
    int64_t most = 0;
    if (!scratch_.holds(around)) {
      most = finish();
      if (!scratch_.make(around)) return kNoMemory;
    }
    constexpr int64_t kFewQueries = 2;
    const bool gathered = end - begin > kFewQueries;
    QueryBox<T> box{};
    if (gathered || search_.distant) box = box_of(search_, begin, end);
    if (search_.exact || (search_.distant && beyond_last_cell(search_, box)))
      return run_exact(begin, end, runs, most);
    const int64_t candidates = gathered ? gather(search_, runs, box, scratch_) : 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t count = gathered ? find_gathered(i, box, candidates) : find_in_runs(i, runs);
      const int64_t before = finish();
      most = before > most ? before : most;
      begin_finish(search_.queries.rows[i], count);
    }
    return most;
  }

  // Orders and writes the hits of the query found last; returns its number of neighbours. This is
  // delayed until the hits of the next query are found, because processors stall when they load
  // vectors whose parts were just stored separately.
  int64_t finish() {
    if (found_query_ < 0) return 0;
    const int64_t query = found_query_, count = found_;
    found_query_ = -1;
    return search_.table == nullptr ? this->count(query, count)
           : count > kSortable      ? select_and_write(query, count)
           : search_.width > 1      ? sort_and_write(query, count)
                                    : nearest_and_write(query, count);
  }

 private:
  void begin_finish(int64_t query, int64_t count) {
    swap(scratch_.key, scratch_.next_key);
    swap(scratch_.hit, scratch_.next_hit);
    found_query_ = query;
    found_ = count;
  }

  // find_gathered and find_in_runs write the hits of query i to scratch.next_key and next_hit,
  // unordered, and return their number.
  int64_t find_gathered(int64_t i, const QueryBox<T>& box, int64_t candidates) {
    const float scale = static_cast<float>(1 / search_.radius);
    const float x = static_cast<float>(search_.queries.x[i] - box.center[0]) * scale;
    const float y = static_cast<float>(search_.queries.y[i] - box.center[1]) * scale;
    const float z = static_cast<float>(search_.queries.z[i] - box.center[2]) * scale;
    int64_t count = 0;
    for (int64_t c = 0; c < candidates; c += kLanes)  // the padding is far away
      add_hits(load<Floats>(scratch_.x + c) - x, load<Floats>(scratch_.y + c) - y,
               load<Floats>(scratch_.z + c) - z, scratch_.row + c, first_lanes(kLanes), count);
    return count;
  }

  int64_t find_in_runs(int64_t i, const Run* runs) {
    const SortedView<T>&points = search_.points, queries = search_.queries;
    const float scale = static_cast<float>(1 / search_.radius);
    int64_t count = 0;
    for (int r = 0; r < 9; ++r)
      for (int64_t p = runs[r].begin; p < runs[r].end; p += kLanes)
        add_hits(load_relative(points.x + p, queries.x[i]) * scale,
                 load_relative(points.y + p, queries.y[i]) * scale,
                 load_relative(points.z + p, queries.z[i]) * scale, points.rows + p,
                 first_lanes(runs[r].end - p), count);
    return count;
  }

  // Appends the candidates that may be neighbours to the hits.
  void add_hits(Floats dx, Floats dy, Floats dz, const uint32_t* rows, Mask real, int64_t& count) {
    const Floats d2 = dx * dx + dy * dy + dz * dz;
    const Mask near = less(d2, 1 + search_.slack) & real;
    compress(scratch_.next_key + count, min(truncate(d2 * kScale), Words{} + kLargestKey), near);
    compress(scratch_.next_hit + count, load<Words>(rows), near);
    count += count_lanes(near);
  }

  // The number of hits that are neighbours.
  int64_t count(int64_t query, int64_t hits) {
    int64_t inside = 0;
    for (int64_t i = 0; i < hits; i += kLanes) {
      const Mask real = first_lanes(hits - i);
      const Mask certain = not_above(load<Words>(scratch_.key + i), certain_ - 1) & real;
      inside += count_lanes(certain);
      for (Mask open = real & ~certain; open != 0; open &= open - 1)
        inside += exact_d2(search_, query, scratch_.hit[i + __builtin_ctz(open)]) < radius2_;
    }
    return inside;
  }

  // Writes a row of width 1; returns its number of neighbours.
  int64_t nearest_and_write(int64_t query, int64_t count) {
    Words least = Words{} + ~0u;
    for (int64_t i = 0; i < count; i += kLanes)
      least = min(least, select(first_lanes(count - i), load<Words>(scratch_.key + i), ~0u));
    const uint32_t nearest = smallest(least);
    int64_t contenders = 0, place = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
      const Mask close = not_above(load<Words>(scratch_.key + i), nearest + slack_);
      const Mask contending = close & first_lanes(count - i);
      if (contending != 0) place = i + __builtin_ctz(contending);
      contenders += count_lanes(contending);
    }
    if (contenders != 1 || nearest >= certain_) return sort_and_write(query, count);
    row_[0] = scratch_.hit[place];
    write(query, 1);
    return 1;
  }

  // Sorts up to kSortable hits in registers and writes the row; returns its number of neighbours.
  int64_t sort_and_write(int64_t query, int64_t count) {
    static_assert(kMostVectors == 16);
    switch ((count + kLanes - 1) / kLanes) {
      case 0:
        fill_and_write(query, 0);
        return 0;
      case 1:
        return sort_and_write<1>(query, count);
      case 2:
        return sort_and_write<2>(query, count);
      case 3:
        return sort_and_write<3>(query, count);
      case 4:
        return sort_and_write<4>(query, count);
      case 5:
        return sort_and_write<5>(query, count);
      case 6:
        return sort_and_write<6>(query, count);
      case 7:
        return sort_and_write<7>(query, count);
      case 8:
        return sort_and_write<8>(query, count);
      case 9:
      case 10:
        return sort_and_write<10>(query, count);
      case 11:
      case 12:
        return sort_and_write<12>(query, count);
      case 13:
      case 14:
        return sort_and_write<14>(query, count);
      default:
        return sort_and_write<16>(query, count);
    }
  }

  template <int Vectors>
  int64_t sort_and_write(int64_t query, int64_t count) {
    Words keys[Vectors];
    for (int i = 0; i < Vectors; ++i) {
      const Words key =
          load<Words>(scratch_.key + i * kLanes) << kNumberBits | (lane_numbers() + i * kLanes);
      keys[i] = select(first_lanes(count - i * kLanes), key, ~0u);
    }
    sort_vectors(keys);
    const int64_t length = count < search_.width ? count : search_.width;
    if (undecided<Vectors>(keys, count, length)) {
      uint32_t sorted[Vectors * kLanes];
      for (int v = 0; v < Vectors; ++v) store(sorted + v * kLanes, keys[v]);
      return settle_and_write(query, sorted, count);
    }
    uint32_t* row =
        search_.wide ? row_ : static_cast<uint32_t*>(search_.table) + query * search_.width;
    for (int i = 0; i < Vectors && i * kLanes < search_.width; ++i) {
      const int64_t left = length - i * kLanes;
      const Words found = look_up<Vectors>(scratch_.hit, keys[i] & kNumberMask);
      store_first(row + i * kLanes, select(first_lanes(left), found, empty_),
                  search_.width - i * kLanes);
    }
    for (int64_t i = Vectors * kLanes; i < search_.width; i += kLanes)
      store_first(row + i, Words{} + empty_, search_.width - i);
    if (search_.counts != nullptr) search_.counts[query] = static_cast<uint32_t>(length);
    if (search_.wide) write(query, length);
    return length;
  }

  // Whether float32 is too inaccurate to decide which of the sorted hits come first, or whether the
  // last of them are within the radius.
  template <int Vectors>
  bool undecided(const Words* keys, int64_t count, int64_t length) const {
    const uint32_t close = slack_ << kNumberBits | kNumberMask;
    const int64_t pairs = length < count ? length : count - 1;
    Mask any = 0;
    for (int i = 0; i < Vectors; ++i) {
      const Words next = shifted(keys[i], i + 1 < Vectors ? keys[i + 1] : ~Words{});
      any |= not_above(next - keys[i], close) & first_lanes(pairs - i * kLanes);
      any |= ~not_above(keys[i], certain_ << kNumberBits) & first_lanes(length - i * kLanes);
    }
    return any != 0;
  }

  // Writes a row for more than kSortable hits. If there are more hits than the row holds, the hits
  // that cannot belong to it are dropped first. If too many remain, float64 decides, either here or
  // in a kd-tree.
  int64_t select_and_write(int64_t query, int64_t count) {
    if (count > search_.width) count = drop_far(count);
    if (count <= kSortable) return sort_and_write(query, count);
    if (count > kMostUnordered + kMostUnorderedPerNeighbor * search_.width) {
      search_.left[query] = 1;
      return 0;
    }
    int64_t inside = 0, length = 0;
    for (int64_t i = 0; i < count; ++i) add_if_inside(query, scratch_.hit[i], inside);
    append(inside, length);
    fill_and_write(query, length);
    return length;
  }

  // Drops the hits that certainly come after the first `width`; returns the number of the remaining
  // hits.
  int64_t drop_far(int64_t count) {
    uint32_t least = kLargestKey, largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      least = scratch_.key[i] < least ? scratch_.key[i] : least;
      largest = scratch_.key[i] > largest ? scratch_.key[i] : largest;
    }
    constexpr int kBinBits = 8;
    int shift = 0;
    while ((largest - least) >> shift >> kBinBits != 0) ++shift;
    uint32_t bins[1 << kBinBits] = {};
    for (int64_t i = 0; i < count; ++i) ++bins[(scratch_.key[i] - least) >> shift];
    uint32_t bin = 0;
    for (int64_t seen = bins[0]; seen < search_.width; seen += bins[bin]) ++bin;
    const uint32_t bound = least + ((bin + 1) << shift) - 1 + slack_;
    if (bound >= certain_) return count;  // some of the first hits may be outside the radius
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
      const Words key = load<Words>(scratch_.key + i), row = load<Words>(scratch_.hit + i);
      const Mask keep = not_above(key, bound) & first_lanes(count - i);
      compress(scratch_.key + kept, key, keep);
      compress(scratch_.hit + kept, row, keep);
      kept += count_lanes(keep);
    }
    return kept;
  }

  // Decides in float64 what float32 could not: which hits near the radius are inside, and the order
  // of hits with nearly equal keys. Writes the row; returns its number of neighbours.
  int64_t settle_and_write(int64_t query, const uint32_t* sorted, int64_t count) {
    int64_t length = 0;
    for (int64_t begin = 0, end; begin < count && length < search_.width; begin = end) {
      end = begin + 1;
      while (end < count &&
             (sorted[end] >> kNumberBits) - (sorted[end - 1] >> kNumberBits) <= slack_)
        ++end;
      if (end - begin == 1 && sorted[begin] >> kNumberBits < certain_) {
        row_[length++] = scratch_.hit[sorted[begin] & kNumberMask];
        continue;
      }
      int64_t inside = 0;
      for (int64_t i = begin; i < end; ++i)
        add_if_inside(query, scratch_.hit[sorted[i] & kNumberMask], inside);
      append(inside, length);
    }
    fill_and_write(query, length);
    return length;
  }

  // Searches for the queries [begin, end) of one cell entirely in float64.
  int64_t run_exact(int64_t begin, int64_t end, const Run* runs, int64_t most) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t query = search_.queries.rows[i];
      int64_t length = 0, inside = 0;
      for (int r = 0; r < 9; ++r)
        for (int64_t p = runs[r].begin; p < runs[r].end; ++p)
          add_if_inside(query, search_.points.rows[p], inside);
      most = inside > most ? inside : most;
      if (search_.table == nullptr) continue;
      append(inside, length);
      fill_and_write(query, length);
    }
    return search_.table != nullptr && most > search_.width ? search_.width : most;
  }

  void add_if_inside(int64_t query, uint32_t row, int64_t& inside) {
    const double d2 = exact_d2(search_, query, row);
    if (d2 < radius2_) scratch_.exact[inside++] = {d2, row};
  }

  // Appends the neighbours in scratch.exact, in order, to the row under construction.
  void append(int64_t inside, int64_t& length) {
    const int64_t added = put_first(scratch_.exact, inside, search_.width - length);
    for (int64_t i = 0; i < added; ++i) row_[length++] = scratch_.exact[i].row;
  }

  void fill_and_write(int64_t query, int64_t length) {
    for (int64_t i = length; i < search_.width; ++i) row_[i] = empty_;
    write(query, length);
  }

  // Copies the row to the table.
  void write(int64_t query, int64_t length) const {
    if (search_.counts != nullptr) search_.counts[query] = static_cast<uint32_t>(length);
    const int64_t first = query * search_.width;
    if (!search_.wide) {
      __builtin_memcpy(static_cast<int32_t*>(search_.table) + first, row_,
                       search_.width * sizeof(int32_t));
      return;
    }
    int64_t* slots = static_cast<int64_t*>(search_.table) + first;
    for (int64_t i = 0; i < search_.width; ++i) slots[i] = row_[i];
  }

  const Search<T>& search_;
  const double radius2_;
  const uint32_t slack_;    // float32 may misorder keys that differ by no more than this
  const uint32_t certain_;  // smaller keys are certainly within the radius
  const uint32_t empty_;
  Cursors<T> cursors_;
  Scratch scratch_;
  uint32_t* row_;                         // the row under construction
  int64_t found_query_ = -1, found_ = 0;  // the query whose hits await finish(), and their number
};

template <typename T>
int64_t search_range(const Search<T>& search, int64_t begin, int64_t end) {
  CellSearch<T> cells(search);
  int64_t most = 0;
  for (int64_t cell = begin; cell < end; ++cell) {
    const int64_t count = cells.run(cell);
    if (count == kNoMemory) return kNoMemory;
    most = count > most ? count : most;
  }
  const int64_t last = cells.finish();
  return last > most ? last : most;
}

}  // namespace

int64_t search_cells(const Search<float>& search, int64_t begin, int64_t end) {
  return search_range(search, begin, end);
}
int64_t search_cells(const Search<double>& search, int64_t begin, int64_t end) {
  return search_range(search, begin, end);
}

}  // namespace kpdeform::KPDEFORM_ISA
