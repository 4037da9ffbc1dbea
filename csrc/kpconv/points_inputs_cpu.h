// Builds the points view, plain or transposed, from tensors on the CPU.
#pragma once

#include <atomic>
#include <limits>
#include <type_traits>
#include <vector>

#include "base/common.h"
#include "base/dispatch_cpu.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "engine/engine.h"
#include "kpconv/kpconv_check.h"
#include "kpconv/transpose_neighbors_cpu.h"

namespace kpdeform {

// Calls body(pointer) with a pointer to the table's entries, int32_t or int64_t.
template <typename Body>
auto dispatch_index(const Tensor& table, const Body& body) {
  return table.scalar_type() == ScalarType::Long ? body(data<int64_t>(table))
                                                 : body(data<int32_t>(table));
}

// Refuses any index that is neither a row of points, nor N, nor -1. The memory safety of all that
// follows depends on this.
inline void check_indices(const Tensor& neighbors, int64_t num_points) {
  std::atomic<int64_t> bad{-1};
  dispatch_index(neighbors, [&](const auto* index) {
    using Index = std::remove_cv_t<std::remove_reference_t<decltype(*index)>>;
    const Index most = Index(std::min<int64_t>(num_points, std::numeric_limits<Index>::max()));
    parallel_chunks(neighbors.numel(), 1 << 18, [&](int64_t begin, int64_t end) {
      Index wrong = 0;  // of the entries' type, so that the loop is vectorised
      for (int64_t i = begin; i < end; ++i) wrong |= (index[i] < -1) | (index[i] > most);
      const bool fine = wrong == 0;
      for (int64_t i = begin; i < end && !fine; ++i) {
        if (index[i] < -1 || index[i] > num_points) bad = i;
      }
    });
    const int64_t at = bad, width = std::max<int64_t>(neighbors.size(1), 1);
    KPDEFORM_CHECK(at < 0, "neighbors[", at / width, ", ", at % width, "] is ",
                   int64_t(index[std::max<int64_t>(at, 0)]), ", but points has ", num_points,
                   " rows; a slot holds a row number, ", num_points, " or -1 (both empty)");
  });
}

// The checked, contiguous tensors of an op on points.
struct PointsInputs {
  Tensor queries, points, neighbors, kernel_points;
  MaybeTensor offsets, modulations;
  double sigma;
  Influence influence;
  Aggregation aggregation;

  PointsInputs(const Tensor& queries_, const Tensor& points_, const Tensor& neighbors_,
               const Tensor& kernel_points_, double sigma_, const MaybeTensor& offsets_,
               const MaybeTensor& modulations_, int64_t influence_, int64_t aggregation_)
      : sigma(sigma_), influence(Influence(influence_)), aggregation(Aggregation(aggregation_)) {
    check_positions(queries_, points_, neighbors_, kernel_points_, offsets_, modulations_,
                    influence_, aggregation_);
    KPDEFORM_CHECK(queries_.size(0) <= kMostRows && points_.size(0) <= kMostRows,
                   "more than 4294967295 rows in one call");
    queries = torch::stable::contiguous(queries_);
    points = torch::stable::contiguous(points_);
    neighbors = torch::stable::contiguous(neighbors_);
    kernel_points = torch::stable::contiguous(kernel_points_);
    offsets = contiguous(offsets_);
    modulations = contiguous(modulations_);
    check_indices(neighbors, points.size(0));
    check_sigma(sigma, queries.scalar_type());
  }

  template <typename T>
  PointsView<T> view() const {
    PointsView<T> view{};
    view.queries = data<T>(queries);
    view.points = data<T>(points);
    view.num_queries = queries.size(0);
    view.num_points = points.size(0);
    view.neighbors = neighbors.const_data_ptr();
    view.wide_index = neighbors.scalar_type() == ScalarType::Long;
    view.width = neighbors.size(1);
    view.max_sources = view.width;
    view.kernel_points = data<T>(kernel_points);
    view.offsets = data<T>(offsets);
    view.modulations = data<T>(modulations);
    view.offset_groups = offset_groups(offsets);
    view.modulation_groups = modulation_groups(modulations);
    view.only_group = -1;
    view.num_kernel_points = int(kernel_points.size(0));
    view.dim = int(kernel_points.size(1));
    view.influence = influence;
    view.aggregation = aggregation;
    view.reach = make_reach<T>(sigma);
    return view;
  }

 private:
  static constexpr int64_t kMostRows = 4294967295;  // rows are 32-bit numbers in the engine
};

// Refuses a table whose entries would cause out-of-bounds reads, in one pass over both tensors, as
// check_indices does for the neighbours. It does not verify that the table belongs to these
// neighbours; that is up to the caller.
inline void check_transposed(const Tensor& starts, const Tensor& members, int64_t num_queries,
                             int64_t num_points) {
  const int64_t* start = data<int64_t>(starts);
  bool rises = start[0] == 0 && start[num_points] <= members.numel();
  for (int64_t n = 0; n < num_points; ++n) rises &= start[n] <= start[n + 1];
  KPDEFORM_CHECK(rises, "starts must rise from 0 to at most the number of members");
  dispatch_index(members, [&](const auto* member) {
    std::atomic<bool> fine{true};
    parallel_chunks(start[num_points], 1 << 16, [&](int64_t begin, int64_t end) {
      bool all = true;
      for (int64_t i = begin; i < end; ++i) all &= member[i] >= 0 && member[i] < num_queries;
      if (!all) fine = false;
    });
    KPDEFORM_CHECK(fine, "members must be rows of queries, of which there are ", num_queries);
  });
}

// Calls body(view, begin, end) with transposed views of the points [begin, end), which together
// cover all points. If the caller gave the table of transpose_neighbors, there is one view;
// otherwise tables of bounded size are made one after another.
template <typename T, typename Body>
void for_each_transposed(PointsView<T> view, const Tensor& neighbors, const MaybeTensor& starts,
                         const MaybeTensor& members, const Body& body) {
  constexpr int64_t kMostMembers = 4 << 20;
  const auto use = [&](const int64_t* first_start, const void* its_members, bool wide,
                       int64_t begin, int64_t end) {
    view.first_point = begin;
    view.starts = first_start;
    view.members = its_members;
    view.wide_members = wide;
    view.max_sources = 0;
    for (int64_t i = 0; i < end - begin; ++i)
      view.max_sources = std::max(view.max_sources, first_start[i + 1] - first_start[i]);
    body(view, begin, end);
  };
  check_transposed_shapes(starts, members, neighbors, view.num_points);
  if (starts.has_value()) {
    const Tensor first = torch::stable::contiguous(*starts);
    const Tensor queries = torch::stable::contiguous(*members);
    check_transposed(first, queries, view.num_queries, view.num_points);
    const bool wide = queries.scalar_type() == ScalarType::Long;
    use(data<int64_t>(first), queries.const_data_ptr(), wide, 0, view.num_points);
    return;
  }
  dispatch_index(neighbors, [&](const auto* index) {
    std::vector<int64_t> own_starts(view.num_points + 1);
    count_queries(index, view.num_queries, view.width, view.num_points, own_starts.data());
    for (int64_t begin = 0, end; begin < view.num_points; begin = end) {
      const auto first = own_starts.begin() + begin;
      end =
          std::upper_bound(first, own_starts.end(), *first + kMostMembers) - own_starts.begin() - 1;
      end = std::min(std::max(end, begin + 1), view.num_points);
      const Scratch<uint32_t> own_members(own_starts[end] - *first);
      const Scratch<int64_t> next(end - begin);
      list_queries(index, view.num_queries, view.width, begin, end - begin, &*first, next.get(),
                   own_members.get());
      use(&*first, own_members.get(), false, begin, end);
    }
  });
}

}  // namespace kpdeform
