// What the dense and the depthwise convolution on CUDA share on the host: checked inputs, views of
// the table, launch shapes.
#pragma once

#include <numeric>
#include <tuple>

#include "kpconv/kpconv_check.h"
#include "engine/launch_cuda.h"
#include "samplers/points_sampler_cuda.h"
#include "kpconv/transpose_neighbors_cuda.h"

namespace kpdeform {

// Contiguous tensors; offsets are (M, OG, K, D), modulations (M, K, MG).
struct ConvInputs {
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
  int64_t slices() const { return std::max(offset_groups(), modulation_groups()); }
};

ConvInputs make_conv_inputs(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                            const Tensor& kernel_points, double sigma, const MaybeTensor& offsets,
                            const MaybeTensor& modulations, int64_t influence, int64_t aggregation);

// The transposed table: what the caller gave, checked, or a new one.
TransposedTable transposed_table(const OnDevice& device, const ConvInputs& in,
                                 const MaybeTensor& starts, const MaybeTensor& members);

// kernel_point_distances, and kpconv_with_distances after its convolution.
Tensor distances_of(const OnDevice& device, const ConvInputs& in, const MaybeTensor& offsets);

// Adds up the slices in `dim` where the op's argument has no groups; shaped like the argument.
Tensor sum_slices(const Tensor& gradient, int64_t dim, int64_t groups, const Tensor& like);

// Gradients of offsets and modulations from write(offsets, modulations), which leaves one per
// slice; empty where not wanted.
template <typename P, typename Write>
std::tuple<Tensor, Tensor> site_gradients(const ConvInputs& in, const MaybeTensor& offsets,
                                          const MaybeTensor& modulations, bool offsets_wanted,
                                          bool modulations_wanted, const Write& write) {
  const int64_t num_queries = in.num_queries(), num_kernel_points = in.num_kernel_points();
  const Tensor none = torch::stable::new_empty(in.queries, {0});
  const Tensor of_offsets =
      offsets_wanted
          ? torch::stable::new_empty(
                in.queries, {num_queries, in.slices(), num_kernel_points, in.kernel_points.size(1)})
          : none;
  const Tensor of_modulations =
      modulations_wanted
          ? torch::stable::new_empty(in.queries, {num_queries, num_kernel_points, in.slices()})
          : none;
  write(offsets_wanted ? mutable_data<P>(of_offsets) : nullptr,
        modulations_wanted ? mutable_data<P>(of_modulations) : nullptr);
  return {offsets_wanted ? sum_slices(of_offsets, 1, in.offset_groups(), *offsets) : none,
          modulations_wanted ? sum_slices(of_modulations, 2, in.modulation_groups(), *modulations)
                             : none};
}

template <typename P>
PointsSampler<P> make_sampler(const ConvInputs& in, const TransposedTable* transposed = nullptr) {
  PointsSampler<P> sampler{};
  sampler.queries = data<P>(in.queries);
  sampler.points = data<P>(in.points);
  sampler.kernel_points = data<P>(in.kernel_points);
  sampler.offsets = data<P>(in.offsets);
  sampler.modulations = data<P>(in.modulations);
  sampler.neighbors = indices(in.neighbors);
  if (transposed != nullptr) {
    sampler.starts = data<int64_t>(transposed->starts);
    sampler.members = indices(transposed->members);
  }
  sampler.num_points = in.num_points();
  sampler.width = in.neighbors.size(1);
  sampler.num_kernel_points = int(in.num_kernel_points());
  sampler.dim = int(in.kernel_points.size(1));
  sampler.offset_groups = int(in.offset_groups());
  sampler.modulation_groups = int(in.modulation_groups());
  sampler.influence = in.influence;
  sampler.aggregation = in.aggregation;
  sampler.reach = make_reach<P>(in.sigma);
  return sampler;
}

// What the combiners ask for a sampler.
struct PointsProblem {
  const ConvInputs& in;

  int64_t num_sites() const { return in.num_queries(); }
  int64_t num_kernel_points() const { return in.num_kernel_points(); }
  int64_t slices() const { return in.slices(); }
  const Tensor& positions() const { return in.queries; }

  // Arguments of the engine's kernels: sites are queries, `rows` are gathered.
  template <typename P, typename F>
  auto plain(const Tensor& rows) const {
    return make_arguments<F>(make_sampler<P>(in), rows, in.num_queries(), in.neighbors.size(1),
                             slices());
  }
  // Sites are points.
  template <typename P, typename F>
  auto transposed(const Tensor& rows, const TransposedTable& table) const {
    return make_arguments<F>(make_sampler<P>(in, &table), rows, in.num_points(),
                             expected_sources(in.neighbors.numel(), in.num_points()), slices());
  }
};

}  // namespace kpdeform
