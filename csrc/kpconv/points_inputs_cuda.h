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
  static constexpr bool kSharesSources = PointsSampler<float>::kSharesSources;
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

// Computes the result of kernel_point_distances; kpconv_with_distances calls it after the
// convolution.
Tensor distances_of(const OnDevice& device, const PointsInputs& in, const MaybeTensor& offsets);

// Sums `gradient` over its groups, along `dim`, if the op's argument has only one group. Returns it
// in the shape of the argument.
Tensor sum_groups(const Tensor& gradient, int64_t dim, int64_t groups, const Tensor& like);

// Which gradients are requested.
struct Wanted {
  bool features, weight, offsets, modulations;
};
using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Returns the gradients of features, weight, offsets and modulations, an empty tensor for each that
// is not requested. `convolution(T(), F())` returns a combiner for these element types (Dense,
// Depthwise); it is not called if `empty`, when all gradients are 0.
template <typename MakeConvolution>
FourTensors convolution_gradients(const OnDevice& device, const PointsInputs& in,
                                  const Tensor& grad, const Tensor& features, const Tensor& weight,
                                  const MaybeTensor& offsets, const MaybeTensor& modulations,
                                  const MaybeTensor& starts, const MaybeTensor& members,
                                  Wanted wanted, bool empty,
                                  const MakeConvolution& make_convolution) {
  wanted.offsets = wanted.offsets && offsets.has_value();
  wanted.modulations = wanted.modulations && modulations.has_value();
  // Tensors of their own: PyTorch does not allow two results to share memory.
  const auto zeros_or_nothing = [&](bool is_wanted, const Tensor& like, const MaybeTensor& input) {
    return is_wanted && empty ? torch::stable::new_zeros(like, input->sizes())
                              : torch::stable::new_empty(like, {0});
  };
  FourTensors grads{zeros_or_nothing(wanted.features, features, features),
                    zeros_or_nothing(wanted.weight, features, weight),
                    zeros_or_nothing(wanted.offsets, in.queries, offsets),
                    zeros_or_nothing(wanted.modulations, in.queries, modulations)};
  if (empty) return grads;
  return dispatch_elements(features, [&](auto number, auto element) {
    using T = decltype(number);
    const Tensor upstream = torch::stable::contiguous(grad);
    const auto convolution = make_convolution(number, element);
    if (wanted.features)
      std::get<0>(grads) = convolution.features_gradient(
          upstream, transposed_table(device, in.neighbors, in.num_points(), starts, members));
    if (wanted.weight) std::get<1>(grads) = convolution.weight_gradient(upstream);
    if (!wanted.offsets && !wanted.modulations) return grads;
    // The kernels write one gradient per group.
    const int64_t sites = in.num_queries(), kernel_points = in.num_kernel_points();
    Tensor& of_offsets = std::get<2>(grads);
    Tensor& of_modulations = std::get<3>(grads);
    if (wanted.offsets)
      of_offsets = torch::stable::new_empty(
          in.queries, {sites, in.num_groups(), kernel_points, in.kernel_points.size(1)});
    if (wanted.modulations)
      of_modulations =
          torch::stable::new_empty(in.queries, {sites, kernel_points, in.num_groups()});
    convolution.site_gradients(upstream, wanted.offsets ? mutable_data<T>(of_offsets) : nullptr,
                               wanted.modulations ? mutable_data<T>(of_modulations) : nullptr);
    if (wanted.offsets) of_offsets = sum_groups(of_offsets, 1, in.offset_groups(), *offsets);
    if (wanted.modulations)
      of_modulations = sum_groups(of_modulations, 2, in.modulation_groups(), *modulations);
    return grads;
  });
}

}  // namespace kpdeform
