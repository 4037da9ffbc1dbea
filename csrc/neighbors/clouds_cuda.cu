#include <bit>
#include <cmath>
#include <limits>

#include "neighbors/clouds_cuda.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;
using Word = unsigned long long;  // the integer type of CUDA's 64-bit atomics

// Maps doubles to unsigned integers of the same order, and back, so that integer atomics can find
// extrema.
__device__ Word ordered(double x) {
  Word bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits >> 63 != 0 ? ~bits : bits | Word{1} << 63;
}
__device__ double from_ordered(Word order) {
  const Word bits = order >> 63 != 0 ? order & ~(Word{1} << 63) : ~order;
  double x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// Bounding box of one cloud, in the integers of ordered().
struct Extent {
  Word low[3], high[3];
};

// Runs in one thread, since there are few clouds. The offsets stay within the rows even if the
// lengths are wrong.
__global__ void offsets_kernel(const int64_t* lengths, int64_t num_clouds, int64_t rows,
                               int64_t* offsets, Extent* extents, Findings* findings) {
  if (global_thread() != 0) return;
  int64_t total = 0;
  bool bad = false;
  for (int64_t b = 0; b < num_clouds; ++b) {
    offsets[b] = total;
    bad |= lengths[b] < 0 || lengths[b] > rows - total;
    if (lengths[b] > 0) total = lengths[b] > rows - total ? rows : total + lengths[b];
    for (int d = 0; d < 3; ++d) {
      extents[b].low[d] = ~Word{0};
      extents[b].high[d] = 0;
    }
  }
  offsets[num_clouds] = total;
  if (bad || total != rows) findings->bad_lengths = 1;
}

template <typename T>
__device__ bool is_finite(const T* x, int dims) {
  bool finite = true;
  for (int d = 0; d < dims; ++d) finite &= x[d] - x[d] == T(0);
  return finite;
}

__device__ void widen(Extent& extent, const Word* low, const Word* high) {
  for (int d = 0; d < 3; ++d) {
    atomicMin(&extent.low[d], low[d]);
    atomicMax(&extent.high[d], high[d]);
  }
}

// A block owns a range of kStretch rows at a time. Each of its threads visits some of these rows
// and tracks the extent of the cloud it is in. If all threads of a warp end in the same cloud, the
// warp updates that cloud's extent once.
template <typename T>
__global__ void extents_kernel(const T* points, int64_t rows, int dims, const int64_t* offsets,
                               int64_t num_clouds, Extent* extents, int64_t* bad_rows) {
  constexpr int64_t kStretch = 4096;
  for (int64_t begin = blockIdx.x * kStretch; begin < rows; begin += gridDim.x * kStretch) {
    const int64_t end = begin + kStretch < rows ? begin + kStretch : rows;
    Word low[3], high[3];
    int64_t cloud = -1;
    const auto reset = [&] {
      for (int d = 0; d < 3; ++d) low[d] = ~Word{0}, high[d] = 0;
    };
    reset();
    for (int64_t row = begin + threadIdx.x; row < end; row += blockDim.x) {
      const T* x = points + row * dims;
      if (!is_finite(x, dims)) {
        atomicAdd(reinterpret_cast<Word*>(bad_rows), Word{1});
        continue;
      }
      if (cloud < 0 || row >= offsets[cloud + 1]) {
        if (cloud >= 0) widen(extents[cloud], low, high);
        reset();
        cloud = cloud_of(offsets, num_clouds, row);
      }
#pragma unroll
      for (int d = 0; d < 3; ++d) {
        const Word value = ordered(d < dims ? double(x[d]) : 0.0);
        low[d] = value < low[d] ? value : low[d];
        high[d] = value > high[d] ? value : high[d];
      }
    }
    const LaneGroup<32> lanes;
    const int64_t first = lanes.broadcast(cloud, 0);
    if (lanes.ballot(cloud == first) == ~0u) {
#pragma unroll
      for (int d = 0; d < 3; ++d)
        for (int distance = 16; distance > 0; distance /= 2) {
          const Word l = __shfl_xor_sync(lanes.mask, low[d], distance);
          const Word h = __shfl_xor_sync(lanes.mask, high[d], distance);
          low[d] = l < low[d] ? l : low[d];
          high[d] = h > high[d] ? h : high[d];
        }
      if (lanes.lane != 0) cloud = -1;
    }
    if (cloud >= 0) widen(extents[cloud], low, high);
  }
}

// Excludes far outliers from the extent of a cloud: limits it to the central nine tenths of a
// sample plus 32 times their spread on either side. A block of kSample threads processes one cloud
// after another.
constexpr int kSample = 256;
template <typename T>
__global__ void narrow_extents_kernel(const T* points, int dims, const int64_t* offsets,
                                      int64_t num_clouds, Extent* extents) {
  constexpr int kTail = kSample / 20;
  constexpr double kMargin = 32;
  KPDEFORM_SHARED(shared);
  double* const sample = reinterpret_cast<double*>(shared);
  double* const low = sample + kSample;
  double* const high = low + 3;
  const int thread = int(threadIdx.x);
  for (int64_t b = blockIdx.x; b < num_clouds; b += gridDim.x) {
    const int64_t begin = offsets[b], count = offsets[b + 1] - begin;
    if (count < kSample) continue;
    const T* x = points + (begin + count * thread / kSample) * dims;
    const bool usable = is_finite(x, dims);
    for (int d = 0; d < dims; ++d) {
      const double value = usable ? double(x[d]) : from_ordered(extents[b].low[d]);
      sample[thread] = value;
      __syncthreads();
      int rank = 0;
      for (int i = 0; i < kSample; ++i)
        rank += sample[i] < value || (sample[i] == value && i < thread);
      if (rank == kTail) low[d] = value;
      if (rank == kSample - 1 - kTail) high[d] = value;
      __syncthreads();
    }
    double spread = 0;
    for (int d = 0; d < dims; ++d) spread = high[d] - low[d] > spread ? high[d] - low[d] : spread;
    for (int d = 0; d < dims && thread == 0 && spread > 0; ++d) {
      const Word lowest = ordered(low[d] - kMargin * spread);
      const Word highest = ordered(high[d] + kMargin * spread);
      extents[b].low[d] = extents[b].low[d] > lowest ? extents[b].low[d] : lowest;
      extents[b].high[d] = extents[b].high[d] < highest ? extents[b].high[d] : highest;
    }
    __syncthreads();
  }
}

// Sets up a grid whose cells begin at multiples of `cell`, with one extra cell on every side.
// Returns its number of cells.
__device__ double rows_grid(const Extent& extent, double cell, CloudGrid& grid, bool& far) {
  grid.cell = cell;
  double cells = 1;
  for (int d = 0; d < 3; ++d) {
    const double first = cell_number(from_ordered(extent.low[d]), cell);
    const double last = cell_number(from_ordered(extent.high[d]), cell);
    grid.origin[d] = first - 1;
    grid.extent[d] = grid.size[d] = int64_t(last - first) + 3;
    cells *= last - first + 3;
    far |= first <= -kLastCellNumber || last >= kLastCellNumber;
  }
  return cells;
}

// Halves the longest axis by folding until there are at most `most` cells.
__device__ void fold(double most, double cells, CloudGrid& grid) {
  while (cells > most) {
    int longest = 0;
    for (int d = 1; d < 3; ++d) longest = grid.size[d] > grid.size[longest] ? d : longest;
    cells /= double(grid.size[longest]);
    grid.size[longest] = grid.size[longest] / 2 + 1;
    cells *= double(grid.size[longest]);
  }
}

__device__ void morton_grid(const Extent& extent, int axis_bits, CloudGrid& grid) {
  constexpr double kWithin = 1 + 1.0 / (1 << 20);  // keeps the highest point in the last cell
  double largest = 0;
  for (int d = 0; d < 3; ++d) {
    grid.origin[d] = from_ordered(extent.low[d]);
    grid.extent[d] = grid.size[d] = int64_t{1} << axis_bits;
    const double size = from_ordered(extent.high[d]) - grid.origin[d];
    largest = size > largest ? size : largest;
  }
  grid.cell = largest / (int64_t{1} << axis_bits) * kWithin;
  if (!(grid.cell > 1e-300)) grid.cell = 1e-300;  // all points in one place
}

__global__ void grids_kernel(const Extent* extents, int64_t num_clouds, CellOrder order,
                             double cell, double most_cells, bool may_fold, int axis_bits,
                             CloudGrid* grids, Findings* findings) {
  for (int64_t b = global_thread(); b < num_clouds; b += num_threads_of_grid()) {
    CloudGrid& grid = grids[b];
    if (extents[b].low[0] > extents[b].high[0]) {  // no points
      grid = CloudGrid{1, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    } else if (order == CellOrder::kMorton) {
      morton_grid(extents[b], axis_bits, grid);
    } else {
      bool far = false;
      const double cells = rows_grid(extents[b], cell, grid, far);
      if (may_fold) fold(most_cells, cells, grid);
      if (far) findings->far_cells = 1;
      // For doubles >= 0, the bits below the sign bit have the order of the values.
      atomicMax(reinterpret_cast<Word*>(&findings->most_cells), ordered(cells) & ~(Word{1} << 63));
    }
  }
}

// The key of x in its cloud; the key of points without a cell if x lies outside the grid.
template <typename T>
__device__ uint64_t key_of(const T* x, int dims, int64_t cloud, int64_t num_clouds,
                           const CloudGrid& grid, CellOrder order, int bits) {
  const uint64_t nowhere = uint64_t(num_clouds) << bits;
  int64_t cell[3];
  for (int d = 0; d < 3; ++d) {
    if (grid.size[d] == 0) return nowhere;
    cell[d] = cell_of(grid, order, d, d < dims ? double(x[d]) : 0.0);
    if (cell[d] < 0) return nowhere;
  }
  const uint64_t in_cloud =
      order == CellOrder::kMorton
          ? morton(cell)
          : uint64_t((cell[2] * grid.size[1] + cell[1]) * grid.size[0] + cell[0]);
  return uint64_t(cloud) << bits | in_cloud;
}

template <typename T>
__global__ void keys_kernel(const T* points, int64_t rows, int dims, const int64_t* offsets,
                            int64_t num_clouds, const CloudGrid* grids, CellOrder order, int bits,
                            uint64_t* keys, uint32_t* values) {
  for (int64_t row = global_thread(); row < rows; row += num_threads_of_grid()) {
    const T* x = points + row * dims;
    values[row] = uint32_t(row);
    keys[row] = uint64_t(num_clouds) << bits;
    if (!is_finite(x, dims)) continue;
    const int64_t cloud = cloud_of(offsets, num_clouds, row);
    keys[row] = key_of(x, dims, cloud, num_clouds, grids[cloud], order, bits);
  }
}

template <typename T>
__global__ void collect_kernel(const T* points, int64_t rows, int dims, const uint32_t* order,
                               SortedPoint<T>* sorted) {
  for (int64_t i = global_thread(); i < rows; i += num_threads_of_grid()) {
    SortedPoint<T> point;
    point.row = order[i];
#pragma unroll
    for (int d = 0; d < 3; ++d)
      point.x[d] = d < dims ? points[int64_t(point.row) * dims + d] : T(0);
    sorted[i] = point;
  }
}

template <typename Body>
void with_positions(const Tensor& points, const Body& body) {
  points.scalar_type() == ScalarType::Double ? body(double{}) : body(float{});
}

}  // namespace

Tensor make_findings(const OnDevice&, const Tensor& like) {
  return torch::stable::new_zeros(like, {int64_t(sizeof(Findings) / sizeof(int64_t))},
                                  ScalarType::Long);
}

Findings read_findings(const OnDevice& device, const Tensor& findings) {
  Findings found;
  KPDEFORM_CUDA_CHECK(cudaMemcpyAsync(&found, findings.const_data_ptr(), sizeof(found),
                                      cudaMemcpyDeviceToHost, device.stream()));
  KPDEFORM_CUDA_CHECK(cudaStreamSynchronize(device.stream()));
  return found;
}

void check_findings(const Findings& found, int64_t num_queries, int64_t num_points) {
  KPDEFORM_CHECK(found.bad_lengths == 0,
                 "lengths must not be negative and must add up to the number of rows");
  const auto check = [](int64_t bad, int64_t rows, const char* argument) {
    KPDEFORM_CHECK(bad == 0, argument, " has ", bad, bad == 1 ? " row" : " rows",
                   " with NaN or infinite coordinates (of ", rows, "); remove them first");
  };
  check(found.bad_points, num_points, "points");
  check(found.bad_queries, num_queries, "queries");
}

DeviceClouds make_clouds(const OnDevice& device, const Tensor& points, const Tensor& lengths,
                         Role role, const Tensor& findings) {
  const char* argument = role == Role::kPoints ? "points" : "queries";
  Findings* found = mutable_data<Findings>(findings);
  KPDEFORM_CHECK(
      points.dim() == 2 && (points.size(1) == 2 || points.size(1) == 3) &&
          (points.scalar_type() == ScalarType::Float || points.scalar_type() == ScalarType::Double),
      argument, " must be (N, 2) or (N, 3), float32 or float64");
  KPDEFORM_CHECK(points.size(0) < std::numeric_limits<uint32_t>::max(),
                 "more than 4294967294 rows in one call; search cloud by cloud");
  KPDEFORM_CHECK(lengths.dim() == 1 && lengths.scalar_type() == ScalarType::Long, argument,
                 ": lengths must be (B,) int64");
  const Tensor counts = torch::stable::contiguous(
      lengths.get_device() == points.get_device()
          ? lengths
          : torch::stable::to(lengths, torch::stable::Device(points.device())));
  const int64_t num_clouds = counts.size(0);
  const DeviceClouds clouds{
      torch::stable::contiguous(points),
      torch::stable::new_empty(points, {num_clouds + 1}, ScalarType::Long),
      scratch(points, std::max<int64_t>(num_clouds, 1) * int64_t(sizeof(Extent)))};
  Extent* extents = mutable_data<Extent>(clouds.extents);
  device.launch(offsets_kernel, 1, 1, data<int64_t>(counts), num_clouds, points.size(0),
                mutable_data<int64_t>(clouds.offsets), extents, found);
  if (num_clouds == 0) return clouds;
  with_positions(points, [&](auto t) {
    using T = decltype(t);
    device.launch(extents_kernel<T>, divide_up(points.size(0), 4096), kBlock,
                  data<T>(clouds.points), points.size(0), clouds.dims(),
                  data<int64_t>(clouds.offsets), num_clouds, extents,
                  role == Role::kPoints ? &found->bad_points : &found->bad_queries);
  });
  return clouds;
}

int cell_bits(int64_t num_clouds) {
  return std::min(64 - int(std::bit_width(uint64_t(num_clouds))), 62);
}

int morton_bits(int64_t num_clouds) {
  return std::min(cell_bits(num_clouds) / 3, 20);
}

Tensor make_grids(const OnDevice& device, const DeviceClouds& clouds, CellOrder order, double cell,
                  bool may_fold, const Tensor& findings) {
  const Tensor grids =
      scratch(clouds.points, std::max<int64_t>(clouds.count(), 1) * int64_t(sizeof(CloudGrid)));
  if (order == CellOrder::kMorton)
    with_positions(clouds.points, [&](auto t) {
      using T = decltype(t);
      device.launch(narrow_extents_kernel<T>, OnDevice::Grid{clouds.count()}, kSample,
                    int64_t(kSample + 6) * int64_t(sizeof(double)), data<T>(clouds.points),
                    clouds.dims(), data<int64_t>(clouds.offsets), clouds.count(),
                    mutable_data<Extent>(clouds.extents));
    });
  device.launch(grids_kernel, divide_up(clouds.count(), kBlock), kBlock,
                data<Extent>(clouds.extents), clouds.count(), order, cell,
                std::ldexp(1.0, cell_bits(clouds.count()) - 1), may_fold,
                morton_bits(clouds.count()), mutable_data<CloudGrid>(grids),
                mutable_data<Findings>(findings));
  return grids;
}

KeysAndValues sort_rows(const OnDevice& device, const DeviceClouds& clouds, const Tensor& grids,
                        CellOrder order, int bits) {
  const int64_t rows = clouds.size();
  const KeysAndValues pairs{torch::stable::new_empty(clouds.points, {rows}, ScalarType::Long),
                            torch::stable::new_empty(clouds.points, {rows}, ScalarType::Int)};
  with_positions(clouds.points, [&](auto t) {
    using T = decltype(t);
    device.launch(keys_kernel<T>, divide_up(rows, kBlock), kBlock, data<T>(clouds.points), rows,
                  clouds.dims(), data<int64_t>(clouds.offsets), clouds.count(),
                  data<CloudGrid>(grids), order, bits, mutable_data<uint64_t>(pairs.keys),
                  mutable_data<uint32_t>(pairs.values));
  });
  return sort_by_key(device, pairs, bits + std::bit_width(uint64_t(clouds.count())));
}

SortedClouds sort_clouds(const OnDevice& device, const DeviceClouds& clouds, const Tensor& grids,
                         CellOrder order) {
  const int64_t rows = clouds.size();
  const KeysAndValues sorted = sort_rows(device, clouds, grids, order, cell_bits(clouds.count()));
  SortedClouds result{sorted.keys, clouds.points};
  with_positions(clouds.points, [&](auto t) {
    using T = decltype(t);
    result.points = scratch(clouds.points, rows * int64_t(sizeof(SortedPoint<T>)));
    device.launch(collect_kernel<T>, divide_up(rows, kBlock), kBlock, data<T>(clouds.points), rows,
                  clouds.dims(), data<uint32_t>(sorted.values),
                  mutable_data<SortedPoint<T>>(result.points));
  });
  return result;
}

}  // namespace kpdeform
