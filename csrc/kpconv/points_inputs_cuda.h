// Host code shared by the dense and the depthwise convolution on CUDA: checked inputs, samplers of
// the table and its transpose, gradients of groups.
#pragma once

#include <numeric>
#include <tuple>

#include "engine/launch_cuda.h"
#include "kpconv/kpconv_check.h"
#include "kpconv/transpose_neighbors_cuda.h"
#include "samplers/points_sampler_cuda.h"

namespace kpdeform {

// Contiguous tensors; offsets are (M, OG, K, D), modulations (M, K, MG).
struct PointsInputs {
  Tensor queries, points, neighbors, kernel_points;
  MaybeTensor offsets, modulations;
  double sigma;
  Influence influence;
  Aggregation aggregation;

  int64_t num_queries() const { return queries.size(0); }
  int64_t num_points() const { return points.size(0); }
  int64_t num_kernel_points() const { return kernel_points.size(0); }
  int64_t offset_groups() const { return offsets.has_value() ? offsets->size(1) : 1; }
  int64_t modulation_groups() const { return modulations.has_value() ? modulations->size(2) : 1; }
  int64_t num_groups() const { return std::max(offset_groups(), modulation_groups()); }

  // ---- The interface that the combiners require of the inputs of any op.
  int64_t num_sites() const { return num_queries(); }
  const Tensor& positions() const { return queries; }

  // Arguments of the engine's kernels in the plain view: sites are queries, and `rows` are
  // gathered.
  template <typename T, typename F>
  auto plain(const Tensor& rows) const {
    return make_arguments<F>(sampler<T>(nullptr), rows, num_queries(), neighbors.size(1),
                             num_groups());
  }
  // Arguments in the transposed view: sites are points.
  template <typename T, typename F>
  auto transposed(const Tensor& rows, const TransposedTable& table) const {
    return make_arguments<F>(sampler<T>(&table), rows, num_points(),
                             expected_sources(neighbors.numel(), num_points()), num_groups());
  }
  template <typename T>
  PointsSampler<T> sampler(const TransposedTable* transposed) const {
    PointsSampler<T> sampler{};
    sampler.queries = data<T>(queries);
    sampler.points = data<T>(points);
    sampler.kernel_points = data<T>(kernel_points);
    sampler.offsets = data<T>(offsets);
    sampler.modulations = data<T>(modulations);
    sampler.neighbors = indices(neighbors);
    if (transposed != nullptr) {
      sampler.starts = data<int64_t>(transposed->starts);
      sampler.members = indices(transposed->members);
    }
    sampler.num_queries = num_queries();
    sampler.num_points = num_points();
    sampler.width = neighbors.size(1);
    sampler.num_kernel_points = int(num_kernel_points());
    sampler.dim = int(kernel_points.size(1));
    sampler.offset_groups = int(offset_groups());
    sampler.modulation_groups = int(modulation_groups());
    sampler.influence = influence;
    sampler.aggregation = aggregation;
    sampler.reach = make_reach<T>(sigma);
    return sampler;
  }
};

PointsInputs make_points_inputs(const Tensor& queries, const Tensor& points,
                                const Tensor& neighbors, const Tensor& kernel_points, double sigma,
                                const MaybeTensor& offsets, const MaybeTensor& modulations,
                                int64_t influence, int64_t aggregation);

// The transposed table: the caller's, after a check, or a new one.
TransposedTable transposed_table(const OnDevice& device, const PointsInputs& in,
                                 const MaybeTensor& starts, const MaybeTensor& members);

// Computes the result of kernel_point_distances; kpconv_with_distances calls it after the
// convolution.
Tensor distances_of(const OnDevice& device, const PointsInputs& in, const MaybeTensor& offsets);

// Sums `gradient` over its groups, along `dim`, if the op's argument has only one group. Returns it
// in the shape of the argument.
Tensor sum_groups(const Tensor& gradient, int64_t dim, int64_t groups, const Tensor& like);

// Returns the gradients of offsets and modulations, empty where not requested. write(offsets,
// modulations) writes one gradient per group.
template <typename T, typename Write>
std::tuple<Tensor, Tensor> site_gradients(const PointsInputs& in, const MaybeTensor& offsets,
                                          const MaybeTensor& modulations, bool offsets_wanted,
                                          bool modulations_wanted, const Write& write) {
  const int64_t num_queries = in.num_queries(), num_kernel_points = in.num_kernel_points();
  const Tensor none = torch::stable::new_empty(in.queries, {0});
  const Tensor of_offsets =
      offsets_wanted
          ? torch::stable::new_empty(in.queries, {num_queries, in.num_groups(), num_kernel_points,
                                                  in.kernel_points.size(1)})
          : none;
  const Tensor of_modulations =
      modulations_wanted
          ? torch::stable::new_empty(in.queries, {num_queries, num_kernel_points, in.num_groups()})
          : none;
  write(offsets_wanted ? mutable_data<T>(of_offsets) : nullptr,
        modulations_wanted ? mutable_data<T>(of_modulations) : nullptr);
  return {offsets_wanted ? sum_groups(of_offsets, 1, in.offset_groups(), *offsets) : none,
          modulations_wanted ? sum_groups(of_modulations, 2, in.modulation_groups(), *modulations)
                             : none};
}

}  // namespace kpdeform
