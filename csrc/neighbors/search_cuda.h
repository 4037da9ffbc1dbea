// Kernels of the neighbour search on CUDA. Contract: neighbors.h.
//
// kLanes threads own one query. They find the runs of sorted points around it (one binary search of
// the sorted keys per run and lane), visit all points of these runs, keep the nearest in shared
// memory, and write them in order: the position of a neighbour is the number of neighbours that
// come before it. float32 distances only exclude points that are certainly too far; d2 in float64,
// with every step rounded as in the contract, decides which points are neighbours and in which
// order. Rows with more than kKept neighbours are written in several passes.
#pragma once

#include "neighbors/clouds_cuda.h"

namespace kpdeform {

constexpr int kSearchThreads = 128;
constexpr int kHits = 256;  // entries in shared memory, per query
constexpr int kKept = 192;  // neighbours per pass; the rest of kHits takes new ones
constexpr int kMostRuns = 27;

// Used as radius2 to accept every distance: no comparison with NaN is true.
#define KPDEFORM_ANY_DISTANCE (std::numeric_limits<double>::quiet_NaN())

template <typename T>
struct SearchArguments {
  const SortedPoint<T>* points;
  const uint64_t* point_keys;
  int64_t num_points;
  const SortedPoint<T>* queries;
  const uint64_t* query_keys;
  int64_t num_queries;
  const CloudGrid* grids;
  const int64_t* starts;  // first sorted point of each cloud; points without a cell come last
  int64_t num_clouds;
  int dims, bits, axis_bits;
  double radius2;  // used by radius_neighbors only
  void* table;     // (M, width) int32, or int64 if wide; null to count only
  bool wide;
  int64_t width;
  int64_t* most;  // largest number of neighbours; may be null
};

struct Neighbor {
  double d2;
  uint32_t row;
  __device__ bool operator<(const Neighbor& other) const {
    return d2 != other.d2 ? d2 < other.d2 : row < other.row;
  }
};

// Shared memory of the lanes that own one query.
struct SearchMemory {
  double d2[kHits];
  int64_t run_begins[kMostRuns], run_ends[kMostRuns];
  Neighbor limit;  // set by one lane, read by all
  uint32_t row[kHits];
};

template <typename T, int kLanes>
class QuerySearch {
 public:
  __device__ QuerySearch(const SearchArguments<T>& args, SearchMemory& memory)
      : args_(args), memory_(memory) {}

  // Selects query i. If it lies in the same cell as the one before, the runs found by find_rows()
  // stay.
  __device__ void open(int64_t i) {
    query_ = args_.queries[i];
    const uint64_t key = args_.query_keys[i];
    if (key == key_) return;
    key_ = key;
    cloud_ = int64_t(key >> args_.bits);
    num_runs_ = 0;
  }
  __device__ bool has_cloud() const { return cloud_ < args_.num_clouds; }

  // Finds the 9 runs, of 3 cells each, around the cell of the query.
  __device__ void find_rows() {
    if (num_runs_ > 0) return;
    const CloudGrid grid = args_.grids[cloud_];
    int64_t cell[3];
    cells_of_query(grid, CellOrder::kRows, cell);
    find_runs(9, [&](int r, uint64_t& first, uint64_t& last) {
      const int64_t y = cell[1] + r % 3 - 1, z = cell[2] + r / 3 - 1;
      if (y < 0 || y >= grid.size[1] || z < 0 || z >= grid.size[2]) return false;
      const int64_t row = (z * grid.size[1] + y) * grid.size[0];
      first = uint64_t(row + (cell[0] > 0 ? cell[0] - 1 : 0));
      last = uint64_t(row + (cell[0] + 1 < grid.size[0] ? cell[0] + 1 : cell[0]));
      return true;
    });
  }

  // Finds the 27 cells of an octree level around the query.
  __device__ void find_cells(int level) {
    const CloudGrid grid = args_.grids[cloud_];
    int64_t cell[3];
    cells_of_query(grid, CellOrder::kMorton, cell);
    const int64_t size = grid.size[0] >> level;
    find_runs(27, [&](int r, uint64_t& first, uint64_t& last) {
      const int64_t at[3] = {(cell[0] >> level) + r % 3 - 1, (cell[1] >> level) + r / 3 % 3 - 1,
                             (cell[2] >> level) + r / 9 - 1};
      for (int d = 0; d < 3; ++d)
        if (at[d] < 0 || at[d] >= size) return false;
      first = morton(at) << 3 * level;
      last = first + (uint64_t{1} << 3 * level) - 1;
      return true;
    });
  }

  __device__ void find_cloud() {
    lanes_.sync();
    num_runs_ = 1;
    if (lanes_.lane == 0) {
      memory_.run_begins[0] = args_.starts[cloud_];
      memory_.run_ends[0] = args_.starts[cloud_ + 1];
    }
    lanes_.sync();
  }

  __device__ int64_t num_candidates() const {
    int64_t total = 0;
    for (int r = 0; r < num_runs_; ++r) total += memory_.run_ends[r] - memory_.run_begins[r];
    return total;
  }

  __device__ int64_t count(double radius2) {
    int64_t total = 0;
    for_each_near(radius2,
                  [&](bool near, const Neighbor&) { total += __popc(lanes_.ballot(near)); });
    return total;
  }

  // Writes the row of the query; returns its number of neighbours, at most `width`.
  __device__ int64_t write_row(double radius2) {
    Neighbor after{-1, 0};
    int64_t written = 0;
    while (written < args_.width) {
      const int wanted = int(args_.width - written < kKept ? args_.width - written : kKept);
      const int found = collect(radius2, after, wanted);
      for (int i = lanes_.lane; i < found; i += 2 * kLanes) {  // two at a time read each hit once
        const Neighbor hits[2] = {hit(i), hit(i + kLanes < found ? i + kLanes : i)};
        int places[2] = {};
        for (int j = 0; j < found; ++j) {
          const Neighbor other = hit(j);
          places[0] += other < hits[0];
          places[1] += other < hits[1];
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (places[h] < wanted) write(written + places[h], hits[h].row);
          if (places[h] == wanted - 1) memory_.limit = hits[h];
        }
      }
      lanes_.sync();
      written += found < wanted ? found : wanted;
      if (found < wanted) break;
      after = memory_.limit;
    }
    for (int64_t slot = written + lanes_.lane; slot < args_.width; slot += kLanes)
      write(slot, args_.num_points);
    return written;
  }

  // An estimate of the octree level at which k neighbours are found: the finest level at which one
  // cell holds the k points that follow, or that precede, the query in Morton order. Returns
  // axis_bits, the number of levels, if there is none.
  __device__ int likely_level(uint64_t query_key, int64_t k) const {
    const int64_t begin = args_.starts[cloud_], end = args_.starts[cloud_ + 1];
    const int64_t at = lower_bound(args_.point_keys, begin, end, query_key);
    int level = args_.axis_bits;
    const auto consider = [&](int64_t first, int64_t last) {
      if (first < begin || last >= end) return;
      const uint64_t differ = args_.point_keys[first] ^ args_.point_keys[last];
      const int shared = differ == 0 ? 0 : (63 - __clzll(static_cast<long long>(differ))) / 3 + 1;
      level = shared < level ? shared : level;
    };
    consider(at - k, at);
    consider(at, at + k);
    return level;
  }

  __device__ double cell_size(int level) const {
    return args_.grids[cloud_].cell * double(int64_t{1} << level);
  }
  __device__ uint64_t key_of_query(int64_t i) const { return args_.query_keys[i]; }

  __device__ const LaneGroup<kLanes>& lanes() const { return lanes_; }

 private:
  __device__ void cells_of_query(const CloudGrid& grid, CellOrder order, int64_t* cell) const {
#pragma unroll
    for (int d = 0; d < 3; ++d) cell[d] = cell_of(grid, order, d, double(query_.x[d]));
  }

  // Finds the points of each run. cells(r, first, last) sets the first and last key of run r within
  // the cloud, or returns false if the run does not exist.
  template <typename Cells>
  __device__ void find_runs(int num_runs, const Cells& cells) {
    const int64_t begin = args_.starts[cloud_], end = args_.starts[cloud_ + 1];
    const uint64_t base = uint64_t(cloud_) << args_.bits;
    lanes_.sync();
    num_runs_ = num_runs;
    for (int r = lanes_.lane; r < num_runs; r += kLanes) {
      uint64_t first = 0, last = 0;
      memory_.run_begins[r] = memory_.run_ends[r] = 0;
      if (!cells(r, first, last)) continue;
      const int64_t at = lower_bound(args_.point_keys, begin, end, base + first);
      memory_.run_begins[r] = at;
      memory_.run_ends[r] = end_of_run(at, end, base + last + 1);
    }
    lanes_.sync();
  }

  // As lower_bound, in few steps for the short runs of most clouds.
  __device__ int64_t end_of_run(int64_t low, int64_t high, uint64_t key) const {
    for (int64_t step = 16; low + step < high; step *= 4) {
      if (args_.point_keys[low + step] >= key)
        return lower_bound(args_.point_keys, low, low + step, key);
      low += step + 1;
    }
    return lower_bound(args_.point_keys, low, high, key);
  }

  // All lanes together call visit(near, neighbor) for every point of the runs. `near` is false for
  // points that are too far and for lanes beyond the last point.
  template <typename Visit>
  __device__ void for_each_near(double radius2, const Visit& visit) {
    constexpr double kSlack = 1 + 1e-6;  // the relative error of float32 is below 2^-21
    constexpr double kSmallest = 1e-36;  // below this, float32 loses digits to underflow
    const float limit =
        radius2 < kSmallest ? std::numeric_limits<float>::infinity() : float(radius2 * kSlack);
    const int64_t total = num_candidates();
    int64_t before = 0;  // candidates in runs before run r
    int r = 0;
    for (int64_t base = 0; base < total; base += kLanes) {
      const int64_t i = base + lanes_.lane;
      bool near = false;
      Neighbor one{0, 0};
      if (i < total) {
        for (int64_t size; i - before >= (size = memory_.run_ends[r] - memory_.run_begins[r]); ++r)
          before += size;
        const SortedPoint<T> point = args_.points[memory_.run_begins[r] + (i - before)];
        const float dx = float(query_.x[0] - point.x[0]), dy = float(query_.x[1] - point.x[1]);
        const float dz = float(query_.x[2] - point.x[2]);
        if (!(dx * dx + dy * dy + dz * dz > limit)) {
          one = Neighbor{exact_d2(point), point.row};
          near = !(one.d2 >= radius2);
        }
      }
      visit(near, one);
    }
  }

  // d2 of the contract: every step rounded.
  __device__ double exact_d2(const SortedPoint<T>& point) const {
    double d2 = 0;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const double difference = __dsub_rn(double(query_.x[d]), double(point.x[d]));
      d2 = __dadd_rn(d2, __dmul_rn(difference, difference));
    }
    return d2;
  }

  // Collects the `wanted` nearest of the neighbours that come after `after`, in any order and
  // perhaps together with farther ones. Returns the number of hits.
  __device__ int collect(double radius2, const Neighbor& after, int wanted) {
    int found = 0;
    bool cut = false;
    Neighbor farthest{0, 0};
    lanes_.sync();
    for_each_near(radius2, [&](bool near, const Neighbor& one) {
      const bool take = near && after < one && (!cut || one < farthest);
      const unsigned takers = lanes_.ballot(take);
      if (take) {
        const int at = found + __popc(takers & lanes_.lanes_before());
        memory_.d2[at] = one.d2;
        memory_.row[at] = one.row;
      }
      found += __popc(takers);
      if (found <= kHits - kLanes) return;
      keep_nearest(found, wanted);
      found = wanted;
      cut = true;
      farthest = memory_.limit;
    });
    lanes_.sync();
    return found;
  }

  // Moves the nearest `wanted` hits to the front, in order, and sets memory.limit to the last of
  // them.
  __device__ void keep_nearest(int found, int wanted) {
    constexpr int kOwn = kHits / kLanes;
    Neighbor own[kOwn];
    int place[kOwn];
    lanes_.sync();
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int i = j * kLanes + lanes_.lane;
      place[j] = kHits;
      if (i >= found) continue;
      own[j] = hit(i);
      place[j] = place_of(own[j], found);
    }
    lanes_.sync();
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      if (place[j] >= wanted) continue;
      memory_.d2[place[j]] = own[j].d2;
      memory_.row[place[j]] = own[j].row;
      if (place[j] == wanted - 1) memory_.limit = own[j];
    }
    lanes_.sync();
  }

  __device__ Neighbor hit(int i) const { return Neighbor{memory_.d2[i], memory_.row[i]}; }
  __device__ int place_of(const Neighbor& one, int found) const {
    int before = 0;
    for (int i = 0; i < found; ++i) before += hit(i) < one;
    return before;
  }

  __device__ void write(int64_t slot, int64_t value) const {
    const int64_t at = int64_t(query_.row) * args_.width + slot;
    if (args_.wide)
      static_cast<int64_t*>(args_.table)[at] = value;
    else
      static_cast<int32_t*>(args_.table)[at] = int32_t(value);
  }

  const SearchArguments<T>& args_;
  SearchMemory& memory_;
  const LaneGroup<kLanes> lanes_;
  SortedPoint<T> query_;
  uint64_t key_ = ~uint64_t{0};  // of no query
  int64_t cloud_ = 0;
  int num_runs_ = 0;
};

template <int kLanes>
constexpr int64_t search_bytes() {
  return int64_t(kSearchThreads / kLanes) * sizeof(SearchMemory);
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kSearchThreads, 4) radius_kernel(const SearchArguments<T> args) {
  KPDEFORM_SHARED(shared);
  QuerySearch<T, kLanes> search(args,
                                reinterpret_cast<SearchMemory*>(shared)[threadIdx.x / kLanes]);
  int64_t most = 0;
  constexpr int kTogether = 16;  // queries that follow each other often share their cell
  for (int64_t first = global_thread() / kLanes * kTogether; first < args.num_queries;
       first += num_threads_of_grid() / kLanes * kTogether) {
    const int64_t end = first + kTogether < args.num_queries ? first + kTogether : args.num_queries;
    for (int64_t i = first; i < end; ++i) {
      search.open(i);
      if (search.has_cloud()) search.find_rows();
      const int64_t found =
          args.table == nullptr ? search.count(args.radius2) : search.write_row(args.radius2);
      most = found > most ? found : most;
    }
  }
  // Reading first avoids most of the atomics: few threads have a larger count.
  if (search.lanes().lane == 0 && most > *static_cast<volatile int64_t*>(args.most))
    atomicMax(reinterpret_cast<unsigned long long*>(args.most),
              static_cast<unsigned long long>(most));
}

// Enlarges the search sphere by octree levels until it holds k points.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kSearchThreads, 4) knn_kernel(const SearchArguments<T> args) {
  constexpr double kWithin = 255.0 / 256;  // of a cell; all points within it are in the 27 cells
  KPDEFORM_SHARED(shared);
  QuerySearch<T, kLanes> search(args,
                                reinterpret_cast<SearchMemory*>(shared)[threadIdx.x / kLanes]);
  for (int64_t i = global_thread() / kLanes; i < args.num_queries;
       i += num_threads_of_grid() / kLanes) {
    search.open(i);
    double radius2 = KPDEFORM_ANY_DISTANCE;
    if (search.has_cloud()) {
      const int likely = search.likely_level(search.key_of_query(i), args.width);
      for (int level = likely > 0 ? likely - 1 : 0;; ++level) {
        if (level >= args.axis_bits) {
          search.find_cloud();
          break;
        }
        search.find_cells(level);
        if (search.num_candidates() < args.width) continue;
        const double radius = search.cell_size(level) * kWithin;
        if (search.count(radius * radius) < args.width) continue;
        radius2 = radius * radius;
        break;
      }
    }
    search.write_row(radius2);
  }
}

}  // namespace kpdeform
