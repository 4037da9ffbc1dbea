// Launch shapes of the engine on CUDA, and host code that the inputs of all ops share.
#pragma once

#include <limits>
#include <numeric>
#include <tuple>

#include "base/cuda.h"
#include "engine/engine_cuda.h"
#include "engine/transposed_table_cuda.h"

namespace kpdeform {

// An estimate of the sources of a site in the transposed table: twice their average number, entries
// / sites. Few sites have more.
inline int64_t expected_sources(int64_t entries, int64_t sites) {
  return 2 * divide_up(entries, std::max<int64_t>(sites, 1));
}

// The arguments that every kernel of the engine needs. The sizes depend on shapes alone.
template <typename F, typename Sampler>
EngineArguments<Sampler, F> make_arguments(const Sampler& sampler, const Tensor& rows,
                                           int64_t sites, int64_t sources, int64_t num_groups) {
  constexpr int64_t kMostStaged = 128, kMostNumbers = std::numeric_limits<int32_t>::max();
  KPDEFORM_CHECK(sampler.num_kernel_points * rows.size(1) <= kMostNumbers,
                 "kernel points times channels must be at most 2147483647");
  EngineArguments<Sampler, F> args{};
  args.sampler = sampler;
  args.features = data<F>(rows);
  args.channels = args.group_channels = int(rows.size(1));
  args.num_groups = int(num_groups);
  args.sites = sites;
  args.stage = int(std::clamp<int64_t>(divide_up(sources, 8) * 8, 8, kMostStaged));
  return args;
}

inline bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls body(lanes, vector) with compile-time constants. A vector is 16 bytes if the pointers are
// aligned and `channels`, the range that no vector may leave, is a multiple of it; otherwise it is
// one element. A site gets a whole warp if its channels fill one, otherwise 8 lanes.
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

// The largest width that divides both channels / groups and channels / num_groups.
inline int64_t common_width(int64_t channels, int64_t groups, int64_t num_groups) {
  return std::gcd(channels / groups, channels / num_groups);
}

// Launches one of the engine's kernels, which use kLanes threads per virtual site. If a site has
// many sources, they are staged in parts, so that shared memory has room for several blocks per
// multiprocessor.
template <int kLanes, bool kDerivative, typename Sampler, typename F>
void launch_engine(const OnDevice& device, void (*kernel)(EngineArguments<Sampler, F>),
                   EngineArguments<Sampler, F> args) {
  constexpr int64_t kSites = kThreads / kLanes;
  constexpr int kRoom = kDerivative ? 64 : 128;  // list entries beyond those of one kernel point
  const auto shared = [&] {
    args.capacity = args.stage + kRoom;
    return kSites * SiteLists<Sampler, kLanes, kDerivative>::bytes(args.stage, args.capacity,
                                                                   args.sampler.num_kernel_points);
  };
  while (shared() > kMostShared && args.stage > 8) args.stage = std::max(8, args.stage / 16 * 8);
  device.launch(kernel, {divide_up(args.sites, kSites), args.num_groups}, kThreads, shared(), args);
}

// Calls body(T(), F()) with the types of positions and features, which have been checked.
template <typename Body>
auto dispatch_elements(const Tensor& features, const Body& body) {
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
