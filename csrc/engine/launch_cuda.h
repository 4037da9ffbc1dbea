// Launch shapes of the engine on CUDA, and host code that the inputs of all ops share.
#pragma once

#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/cuda.h"
#include "engine/engine_cuda.h"
#include "engine/tensor_cores_cuda.h"
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

// Launches one of the kernels of engine_cuda.h, which use kLanes threads per virtual site. If a site
// has many sources, they are staged in parts, so that shared memory has room for several blocks per
// multiprocessor.
template <int kLanes, bool kDerivative, typename Sampler, typename F>
void launch_lists(const OnDevice& device, void (*kernel)(EngineArguments<Sampler, F>),
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

// Whether the engine uses tensor cores for features of type F where sampler, alignment and channels
// allow it (see on_tensor_cores). KPDEFORM_TENSOR_CORES=0
// forbids it; the variable is read at every call, so that a test or a benchmark can compare both
// engines.
template <typename F>
bool uses_tensor_cores(const OnDevice& device) {
  const char* const value = std::getenv("KPDEFORM_TENSOR_CORES");
  if (value != nullptr && std::strcmp(value, "0") == 0) return false;
  return !std::is_same_v<F, double> && device.capability() >= 80;
}

// Calls body(arguments for one view, vector, packs) and returns true if the kernels of
// tensor_cores_cuda.h can do the work; otherwise returns false. `width`: the range of channels that
// no block of channels may leave. kPlain: the view is never the transposed one.
template <bool kPlain, typename Sampler, typename F, typename Body>
bool on_tensor_cores(const OnDevice& device, const EngineArguments<Sampler, F>& args, int64_t width,
                     bool is_aligned, const Body& body) {
  if constexpr (Sampler::kSharesSources && !std::is_same_v<F, double>) {
    constexpr int kWide = 16 / sizeof(F), kMostStaged = 96;
    if (!is_aligned || width % kTile != 0 || !uses_tensor_cores<F>(device)) return false;
    using std::integral_constant;
    args.sampler.template with_view<kPlain>([&](const auto& sampler) {
      EngineArguments<std::decay_t<decltype(sampler)>, F> fixed{args, sampler};
      fixed.stage = std::min<int>(int(divide_up(args.stage, kTile)) * kTile, kMostStaged);
      if (width % 128 == 0 && sizeof(F) == 2)
        body(fixed, integral_constant<int, kWide>{}, integral_constant<int, 2>{});
      else if (width % 64 == 0)
        body(fixed, integral_constant<int, kWide>{}, integral_constant<int, 8 / kWide>{});
      else
        body(fixed, integral_constant<int, 2>{}, integral_constant<int, 1>{});
    });
    return true;
  } else {
    return false;
  }
}

template <typename Sampler, typename F>
void launch_tensor(const OnDevice& device, void (*kernel)(EngineArguments<Sampler, F>),
                   const EngineArguments<Sampler, F>& args, bool keeps) {
  constexpr int kWarps = kThreads / 32;
  device.launch(kernel, {divide_up(args.sites, kWarps), args.num_groups}, kThreads,
                kWarps * TensorSite<Sampler, F>::bytes(args.stage, keeps), args);
}

// The weighted sums S of a chunk of sites. `width`: the range of channels that no vector may leave.
template <typename Sampler, typename F>
void launch_gather(const OnDevice& device, const EngineArguments<Sampler, F>& args, int64_t width) {
  const bool is_aligned = aligned(args.features) && aligned(args.out);
  const auto by_tensor_cores = [&](const auto& fixed, auto vector, auto packs) {
    using Fixed = std::decay_t<decltype(fixed.sampler)>;
    launch_tensor(device, tensor_gather_kernel<Fixed, F, vector(), packs()>, fixed,
                  args.channels > 8 * vector() * packs());
  };
  if (on_tensor_cores<false>(device, args, width, is_aligned, by_tensor_cores)) return;
  with_launch_shape<F>(width, is_aligned, [&](auto lanes, auto vector) {
    launch_lists<lanes(), false>(device, gather_kernel<Sampler, F, lanes(), vector()>, args);
  });
}

// The gradients of offsets and modulations.
template <bool kDepthwise, typename Sampler, typename F>
void launch_site_gradients(const OnDevice& device, const EngineArguments<Sampler, F>& args,
                           int64_t width) {
  const bool is_aligned =
      aligned(args.features) &&
      (kDepthwise ? aligned(args.grad) && aligned(args.weight) : aligned(args.grad_sampled));
  const auto by_tensor_cores = [&](const auto& fixed, auto vector, auto) {
    using Fixed = std::decay_t<decltype(fixed.sampler)>;
    constexpr int kVector = vector() > 4 ? 8 : 4;
    launch_tensor(device, tensor_site_gradients_kernel<Fixed, F, kVector, kDepthwise>, fixed,
                  false);
  };
  if (on_tensor_cores<true>(device, args, width, is_aligned, by_tensor_cores)) return;
  with_launch_shape<F>(width, is_aligned, [&](auto lanes, auto vector) {
    launch_lists<lanes(), true>(
        device, site_gradients_kernel<Sampler, F, lanes(), vector(), kDepthwise>, args);
  });
}

// The depthwise convolution.
template <typename Sampler, typename F>
void launch_depthwise(const OnDevice& device, const EngineArguments<Sampler, F>& args,
                      int64_t width) {
  const bool is_aligned = aligned(args.features) && aligned(args.out) && aligned(args.weight);
  const auto by_tensor_cores = [&](const auto& fixed, auto vector, auto packs) {
    using Fixed = std::decay_t<decltype(fixed.sampler)>;
    launch_tensor(
        device, tensor_depthwise_kernel<Fixed, F, vector(), packs()>, fixed,
        args.channels > 8 * vector() * packs() && args.sampler.num_kernel_points <= kTile);
  };
  if (on_tensor_cores<false>(device, args, width, is_aligned, by_tensor_cores)) return;
  with_launch_shape<F>(width, is_aligned, [&](auto lanes, auto vector) {
    launch_lists<lanes(), false>(device, depthwise_kernel<Sampler, F, lanes(), vector()>, args);
  });
}

// The gradient of the weight of a depthwise convolution, as `partials` parts of the sum.
template <typename Sampler, typename F>
void launch_depthwise_weight(const OnDevice& device, EngineArguments<Sampler, F> args,
                             int64_t width, int64_t partials) {
  const int64_t num_kernel_points = args.sampler.num_kernel_points;
  const bool is_aligned = aligned(args.features) && aligned(args.grad);
  const auto by_tensor_cores = [&](const auto& fixed, auto vector, auto packs) {
    using Fixed = std::decay_t<decltype(fixed.sampler)>;
    constexpr int64_t kBlock = 8 * vector() * packs(), kWarps = kThreads / 32;
    const int64_t shared =
        std::max<int64_t>(kWarps * TensorSite<Fixed, F>::bytes(fixed.stage, false),
                          kWarps * kTile * kBlock * sizeof(float));
    device.launch(tensor_depthwise_weight_kernel<Fixed, F, vector(), packs()>,
                  {partials, args.channels / kBlock, divide_up(num_kernel_points, kTile)}, kThreads,
                  shared, fixed);
  };
  if (on_tensor_cores<true>(device, args, width, is_aligned, by_tensor_cores)) return;
  args.stage = std::min(args.stage, 64);
  args.capacity = args.stage + 64;
  with_launch_shape<F>(width, is_aligned, [&](auto lanes, auto vector) {
    using Lists = SiteLists<Sampler, lanes(), false>;
    const int64_t spans =
        divide_up(args.channels / args.num_groups, lanes() * vector()) * args.num_groups;
    const int64_t shared =
        depthwise_sums_bytes<typename Sampler::T, vector()>() +
        kWeightThreads / lanes() * Lists::bytes(args.stage, args.capacity, int(num_kernel_points));
    device.launch(depthwise_weight_kernel<Sampler, F, lanes(), vector()>,
                  {partials, spans, divide_up(num_kernel_points, kRange)}, kWeightThreads, shared,
                  args);
  });
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
