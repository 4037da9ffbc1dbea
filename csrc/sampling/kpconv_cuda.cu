// kpconv forward on CUDA, two steps: the neighbour gather below writes S for a chunk of sites, one
// matrix product combines it. Contract: kpconv.h.
//
// One block owns one query. Its threads compute the influences of a batch of neighbours into shared
// memory, then stride over channels with kRegisters kernel points at a time in registers. No
// atomics; the result does not depend on the launch shape.
//
// Memory: shared, kBatch * K floats and kBatch rows; device, one chunk of S.
// Limits: D in {2, 3}; aggregation, influence, offsets, modulations and groups as on the CPU.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <optional>

#include "../common.h"
#include "kpconv_check.h"
#include "points_math.h"

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace kpdeform {
namespace {

constexpr int kBatch = 32;      // neighbours whose influences are in shared memory at a time
constexpr int kRegisters = 16;  // kernel points whose sums one thread holds
constexpr int64_t kChunkBytes = int64_t(32)
                                << 20;  // S of a chunk of sites: stays in the L2 of recent devices
constexpr int64_t kMaxBlocks = 65535;

#define KPDEFORM_CUDA_CHECK(call)                                      \
  do {                                                                 \
    const cudaError_t status = (call);                                 \
    KPDEFORM_CHECK(status == cudaSuccess, "CUDA error in " #call ": ", \
                   cudaGetErrorString(status));                        \
  } while (0)

template <typename P, typename F>
struct GatherArguments {
  const P *queries, *points, *kernel_points, *offsets, *modulations;
  const F* features;
  const void* neighbors;
  F* sampled;  // (sites, G, K, C/G)
  int64_t first_site, sites, num_points, width, channels, groups;
  int num_kernel_points, dim;
  bool wide_index;
  Influence influence;
  Aggregation aggregation;
  Reach<P> reach;
};

template <typename P, typename F>
__device__ P squared_distance(const GatherArguments<P, F>& args, int64_t site, const P* y, int k) {
  P sum = 0;
  for (int d = 0; d < args.dim; ++d) {
    P x = args.kernel_points[k * args.dim + d];
    if (args.offsets != nullptr)
      x += args.offsets[(site * args.num_kernel_points + k) * args.dim + d];
    sum += (y[d] - x) * (y[d] - x);
  }
  return sum;
}

template <typename P, typename F>
__device__ P influence_of(const GatherArguments<P, F>& args, P squared) {
  if (args.influence == kLinear) return linear_influence(std::sqrt(squared), args.reach);
  return args.influence == kGaussian ? gaussian_influence(squared, args.reach) : P(1);
}

// Writes the influences (K) of one neighbour, or zeros for an empty slot or an index that is no
// row. Returns the row.
template <typename P, typename F>
__device__ int64_t neighbor_influences(const GatherArguments<P, F>& args, int64_t site,
                                       int64_t slot, P* influences) {
  const int64_t at = site * args.width + slot;
  const int64_t n = args.wide_index ? static_cast<const int64_t*>(args.neighbors)[at]
                                    : int64_t(static_cast<const int32_t*>(args.neighbors)[at]);
  if (n < 0 || n >= args.num_points) return -1;
  P y[3];
  for (int d = 0; d < args.dim; ++d)
    y[d] = args.points[n * args.dim + d] - args.queries[site * args.dim + d];
  P smallest = squared_distance(args, site, y, 0);
  int closest = 0;
  for (int k = 1; k < args.num_kernel_points; ++k) {
    const P squared = squared_distance(args, site, y, k);
    if (squared < smallest) smallest = squared, closest = k;
  }
  const bool prunes = args.offsets != nullptr && args.influence != kLinear;
  if (prunes && !(smallest < args.reach.squared_sigma)) return -1;
  for (int k = 0; k < args.num_kernel_points; ++k) {
    P a = influence_of(args, squared_distance(args, site, y, k));
    if (args.aggregation == kClosest && k != closest) a = 0;
    if (args.modulations != nullptr) a *= args.modulations[site * args.num_kernel_points + k];
    influences[k] = a;
  }
  return n;
}

template <typename P, typename F>
__global__ void gather_kernel(const GatherArguments<P, F> args) {
  extern __shared__ unsigned char shared[];
  int64_t* rows = reinterpret_cast<int64_t*>(shared);   // (kBatch)
  P* influences = reinterpret_cast<P*>(rows + kBatch);  // (kBatch, K)
  const int num_kernel_points = args.num_kernel_points;
  const int64_t row = num_kernel_points * args.channels, group_in = args.channels / args.groups;
  for (int64_t i = blockIdx.x; i < args.sites; i += gridDim.x) {
    const int64_t site = args.first_site + i;
    F* sampled = args.sampled + i * row;
    for (int64_t batch = 0; batch == 0 || batch < args.width; batch += kBatch) {
      const int count = int(min(int64_t(kBatch), args.width - batch));
      __syncthreads();
      for (int j = threadIdx.x; j < count; j += blockDim.x) {
        rows[j] = neighbor_influences(args, site, batch + j, influences + j * num_kernel_points);
      }
      __syncthreads();
      for (int64_t c = threadIdx.x; c < args.channels; c += blockDim.x) {
        F* column = sampled + (c / group_in) * num_kernel_points * group_in + c % group_in;
        for (int first = 0; first < num_kernel_points; first += kRegisters) {
          const int kernel_points = min(kRegisters, num_kernel_points - first);
          P sum[kRegisters] = {};
          for (int j = 0; j < count; ++j) {
            if (rows[j] < 0) continue;
            const P x = P(args.features[rows[j] * args.channels + c]);
#pragma unroll
            for (int k = 0; k < kRegisters; ++k) {
              if (k < kernel_points) sum[k] += influences[j * num_kernel_points + first + k] * x;
            }
          }
#pragma unroll
          for (int k = 0; k < kRegisters; ++k) {
            if (k >= kernel_points) break;
            F& target = column[(first + k) * group_in];
            target = F(batch == 0 ? sum[k] : P(target) + sum[k]);
          }
        }
      }
    }
  }
}

template <typename P, typename F>
void launch_gather(const GatherArguments<P, F>& args, cudaStream_t stream) {
  const int64_t threads = std::clamp<int64_t>((args.channels + 31) / 32 * 32, 32, 256);
  const size_t shared = kBatch * (sizeof(int64_t) + args.num_kernel_points * sizeof(P));
  gather_kernel<P, F>
      <<<unsigned(std::min(args.sites, kMaxBlocks)), unsigned(threads), shared, stream>>>(args);
  KPDEFORM_CUDA_CHECK(cudaGetLastError());
}

using MaybeTensor = std::optional<Tensor>;

template <typename T>
const T* data(const MaybeTensor& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

struct Inputs {
  Tensor queries, points, neighbors, features, kernel_points, weight;
  MaybeTensor offsets, modulations;
  double sigma;
  Influence influence;
  Aggregation aggregation;
  int64_t groups;
};

template <typename P, typename F>
Tensor forward(const Inputs& in) {
  const int64_t sites = in.queries.size(0), channels = in.features.size(1),
                outputs = in.weight.size(2);
  const int64_t num_kernel_points = in.kernel_points.size(0), row = num_kernel_points * channels;
  const Tensor out = torch::stable::new_zeros(in.features, {sites, outputs});
  if (sites == 0 || row == 0 || outputs == 0) return out;
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / int64_t(sizeof(F)) / row, 1, sites);
  const Tensor sampled = torch::stable::new_empty(in.features, {chunk, in.groups, row / in.groups});
  GatherArguments<P, F> args{};
  args.queries = data<P>(in.queries);
  args.points = data<P>(in.points);
  args.kernel_points = data<P>(in.kernel_points);
  args.offsets = data<P>(in.offsets);
  args.modulations = data<P>(in.modulations);
  args.features = data<F>(in.features);
  args.neighbors = in.neighbors.const_data_ptr();
  args.sampled = static_cast<F*>(sampled.mutable_data_ptr());
  args.num_points = in.points.size(0);
  args.width = in.neighbors.size(1);
  args.channels = channels;
  args.groups = in.groups;
  args.num_kernel_points = int(num_kernel_points);
  args.dim = int(in.kernel_points.size(1));
  args.wide_index = in.neighbors.scalar_type() == ScalarType::Long;
  args.influence = in.influence;
  args.aggregation = in.aggregation;
  args.reach = make_reach<P>(in.sigma);
  const cudaStream_t stream = current_stream(in.features.get_device());
  for (int64_t first = 0; first < sites; first += chunk) {
    args.first_site = first;
    args.sites = std::min(chunk, sites - first);
    launch_gather(args, stream);
    Tensor rows = torch::stable::narrow(const_cast<Tensor&>(out), 0, first, args.sites);
    for (int64_t g = 0; g < in.groups; ++g) {
      Tensor group = torch::stable::select(
          torch::stable::narrow(const_cast<Tensor&>(sampled), 0, 0, args.sites), 1, g);
      Tensor weight = torch::stable::reshape(
          torch::stable::narrow(const_cast<Tensor&>(in.weight), 2, g * outputs / in.groups,
                                outputs / in.groups),
          {row / in.groups, outputs / in.groups});
      Tensor target = torch::stable::narrow(rows, 1, g * outputs / in.groups, outputs / in.groups);
      torch::stable::copy_(target, torch::stable::matmul(group, weight));
    }
  }
  return out;
}

Tensor kpconv(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
              const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
              double sigma, MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
              int64_t aggregation, int64_t groups) {
  using torch::stable::contiguous;
  check_positions(queries, points, neighbors, kernel_points, offsets, modulations, influence,
                  aggregation);
  check_channels(features, points, offsets, modulations);
  check_dense(features, kernel_points, weight, groups);
  KPDEFORM_CHECK(offset_groups(offsets) == 1 && modulation_groups(modulations) == 1,
                 "groups of offsets and modulations are not supported on CUDA yet");
  const torch::stable::accelerator::DeviceGuard guard(features.get_device());
  const auto maybe_contiguous = [](const MaybeTensor& t) {
    return t.has_value() ? MaybeTensor(contiguous(*t)) : t;
  };
  const Inputs in{contiguous(queries),
                  contiguous(points),
                  contiguous(neighbors),
                  contiguous(features),
                  contiguous(kernel_points),
                  contiguous(weight),
                  maybe_contiguous(offsets),
                  maybe_contiguous(modulations),
                  sigma,
                  Influence(influence),
                  Aggregation(aggregation),
                  groups};
  const ScalarType positions = queries.scalar_type(), dtype = features.scalar_type();
  if (positions == ScalarType::Double && dtype == ScalarType::Double)
    return forward<double, double>(in);
  KPDEFORM_CHECK(positions == ScalarType::Float,
                 "positions must be float32, or float64 with float64 features");
  if (dtype == ScalarType::Float) return forward<float, float>(in);
  if (dtype == ScalarType::Half) return forward<float, __half>(in);
  KPDEFORM_CHECK(dtype == ScalarType::BFloat16,
                 "features must be float16, bfloat16, float32 or float64");
  return forward<float, __nv_bfloat16>(in);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CUDA, m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
}

}  // namespace kpdeform
