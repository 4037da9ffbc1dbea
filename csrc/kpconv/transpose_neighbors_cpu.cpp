// transpose_neighbors on the CPU. Contract: kpconv.h, "Transposed table".
#include <tuple>

#include "kpconv/points_inputs_cpu.h"

namespace kpdeform {
namespace {

std::tuple<Tensor, Tensor> transpose_neighbors(const Tensor& neighbors, int64_t num_points) {
  KPDEFORM_CHECK(neighbors.dim() == 2 && (neighbors.scalar_type() == ScalarType::Int ||
                                          neighbors.scalar_type() == ScalarType::Long),
                 "neighbors must be (M, H) int32 or int64");
  check_num_points(num_points);
  const Tensor table = torch::stable::contiguous(neighbors);
  const int64_t num_queries = table.size(0), width = table.size(1);
  const bool wide = num_queries > std::numeric_limits<int32_t>::max();
  const Tensor starts = torch::stable::new_empty(table, {num_points + 1}, ScalarType::Long);
  const Tensor members = torch::stable::new_empty(table, {num_queries * width},
                                                  wide ? ScalarType::Long : ScalarType::Int);
  int64_t* first = mutable_data<int64_t>(starts);
  const Scratch<int64_t> next(num_points);
  dispatch_index(table, [&](const auto* index) {
    count_queries(index, num_queries, width, num_points, first);
    const auto list = [&](auto* target) {
      list_queries(index, num_queries, width, 0, num_points, first, next.get(), target);
      std::fill(target + first[num_points], target + num_queries * width, -1);
    };
    wide ? list(mutable_data<int64_t>(members)) : list(mutable_data<int32_t>(members));
  });
  return {starts, members};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("transpose_neighbors", TORCH_BOX(&transpose_neighbors));
}

}  // namespace kpdeform
