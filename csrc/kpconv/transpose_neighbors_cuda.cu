// transpose_neighbors on CUDA: a stable sort of the slots by the point they hold. No atomics are
// needed, and the queries of a point ascend. Bound: memory; 24 bytes per slot are written, then
// read and written once per 8 bits of N.
#include <bit>
#include <limits>
#include <tuple>

#include "base/sort_cuda.h"
#include "kpconv/kpconv_check.h"
#include "kpconv/transpose_neighbors_cuda.h"

namespace kpdeform {
namespace {

// keys[i] is the point in slot i, or N if the slot is empty; values[i] is its query, or -1 if the
// slot is empty.
__global__ void slots_kernel(Indices neighbors, int64_t slots, int64_t width, int64_t num_points,
                             uint64_t* keys, uint32_t* values) {
  for (int64_t i = global_thread(); i < slots; i += num_threads_of_grid()) {
    const int64_t n = neighbors[i];
    const bool occupied = n >= 0 && n < num_points;
    keys[i] = uint64_t(occupied ? n : num_points);
    values[i] = occupied ? uint32_t(i / width) : uint32_t(-1);
  }
}

}  // namespace

TransposedTable transpose_table(const OnDevice& device, const Tensor& neighbors,
                                int64_t num_points) {
  constexpr int kBlock = 256;
  const int64_t slots = neighbors.numel(), width = std::max<int64_t>(neighbors.size(1), 1);
  KPDEFORM_CHECK(neighbors.size(0) <= std::numeric_limits<int32_t>::max(),
                 "more than 2147483647 queries in one table");
  const KeysAndValues pairs{torch::stable::new_empty(neighbors, {slots}, ScalarType::Long),
                            torch::stable::new_empty(neighbors, {slots}, ScalarType::Int)};
  device.launch(slots_kernel, divide_up(slots, kBlock), kBlock, indices(neighbors), slots, width,
                num_points, mutable_data<uint64_t>(pairs.keys),
                mutable_data<uint32_t>(pairs.values));
  const KeysAndValues sorted = sort_by_key(device, pairs, std::bit_width(uint64_t(num_points)));
  return {key_starts(device, sorted.keys, num_points), sorted.values};
}

TransposedTable transposed_table(const OnDevice& device, const Tensor& neighbors,
                                 int64_t num_points, const MaybeTensor& starts,
                                 const MaybeTensor& members) {
  check_transposed_shapes(starts, members, neighbors, num_points);
  if (!starts.has_value()) return transpose_table(device, neighbors, num_points);
  return {torch::stable::contiguous(*starts), torch::stable::contiguous(*members)};
}

namespace {

std::tuple<Tensor, Tensor> transpose_neighbors(const Tensor& neighbors, int64_t num_points) {
  KPDEFORM_CHECK(neighbors.dim() == 2 && (neighbors.scalar_type() == ScalarType::Int ||
                                          neighbors.scalar_type() == ScalarType::Long),
                 "neighbors must be (M, H) int32 or int64");
  check_num_points(num_points);
  const OnDevice device(neighbors);
  const TransposedTable table =
      transpose_table(device, torch::stable::contiguous(neighbors), num_points);
  return {table.starts, table.members};
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("transpose_neighbors", TORCH_BOX(&transpose_neighbors));
}

}  // namespace kpdeform
