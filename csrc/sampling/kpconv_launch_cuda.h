// What the dense and the depthwise convolution on CUDA share on the host: checked inputs, views of
// the table, launch shapes.
#pragma once

#include <numeric>
#include <tuple>

#include "../cuda.h"
#include "engine_cuda.h"
#include "kpconv_check.h"
#include "points_sampler_cuda.h"
#include "transpose_neighbors_cuda.h"

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

// Arguments that every kernel of the engine needs. The sizes depend on shapes alone.
template <typename P, typename F>
EngineArguments<PointsSampler<P>, F> make_arguments(const ConvInputs& in,
                                                    const PointsSampler<P>& sampler,
                                                    const Tensor& features, int64_t slices) {
  constexpr int64_t kMostStaged = 128;
  EngineArguments<PointsSampler<P>, F> args{};
  args.sampler = sampler;
  args.features = data<F>(features);
  args.channels = args.group_channels = int(features.size(1));
  args.slices = int(slices);
  const bool transposed = sampler.starts != nullptr;
  args.sites = transposed ? in.num_points() : in.num_queries();
  // Transposed, a site has this many sources on average; few have more than twice as many.
  const int64_t sources =
      transposed ? 2 * divide_up(in.neighbors.numel(), std::max<int64_t>(args.sites, 1))
                 : sampler.width;
  args.stage = int(std::clamp<int64_t>(divide_up(sources, 8) * 8, 8, kMostStaged));
  args.capacity = args.stage + 128;
  return args;
}

inline bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls body(lanes, vector) with compile-time numbers: 16-byte reads where `channels` (all that a
// pack must not straddle) and pointers allow them, a warp per site where that fills it.
template <typename F, typename Body>
void with_launch_shape(int64_t channels, bool is_aligned, const Body& body) {
  constexpr int kWide = 16 / sizeof(F);
  using std::integral_constant;
  if (!is_aligned || channels % kWide != 0)
    return body(integral_constant<int, 8>{}, integral_constant<int, 1>{});
  if (channels >= 32 * kWide)
    return body(integral_constant<int, 32>{}, integral_constant<int, kWide>{});
  body(integral_constant<int, 8>{}, integral_constant<int, kWide>{});
}

// The largest width that divides all of these.
inline int64_t common_width(int64_t channels, int64_t groups, int64_t slices) {
  return std::gcd(channels / groups, channels / slices);
}

// Launches one of the engine's kernels that give kLanes threads to a virtual site.
template <int kLanes, bool kWithSlope, typename Sampler, typename F>
void launch_engine(const OnDevice& device, void (*kernel)(EngineArguments<Sampler, F>),
                   const EngineArguments<Sampler, F>& args) {
  constexpr int64_t kSites = kThreads / kLanes;
  const int64_t shared = kSites * SiteLists<Sampler, kLanes, kWithSlope>::bytes(
                                      args.stage, args.capacity, args.sampler.num_kernel_points);
  device.launch(kernel, {divide_up(args.sites, kSites), args.slices}, kThreads, shared, args);
}

// Calls body(P, F) with values of the types of positions and features, which have been checked.
template <typename Body>
auto with_types(const Tensor& features, const Body& body) {
  switch (features.scalar_type()) {
    case ScalarType::Double:
      return body(double{}, double{});
    case ScalarType::Half:
      return body(float{}, Half{});
    case ScalarType::BFloat16:
      return body(float{}, BFloat16{});
    default:
      return body(float{}, float{});
  }
}

}  // namespace kpdeform
