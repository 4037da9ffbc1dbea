// Declarations shared by all CUDA kernels and their launches. The same source compiles with nvcc
// and, under KPDEFORM_CUDA_SHIM, with a C++ compiler; then cuda_shim.h runs blocks, warps and their
// collectives on the CPU, for tests (csrc/README.md, "CUDA without a GPU").
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "base/common.h"
#include "base/half.h"
#include "base/tensors.h"

#ifdef KPDEFORM_CUDA_SHIM
#include "base/cuda_shim.h"
#define KPDEFORM_SHARED(name) unsigned char* const name = ::kpdeform::shim::dynamic_shared()
#define KPDEFORM_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m)
#else
#include <cuda_runtime.h>
#define KPDEFORM_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define KPDEFORM_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(kpdeform, CUDA, m)
// torch's headers declare this function only in builds against a CUDA torch.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace kpdeform {

// Unlike that of KPDEFORM_CHECK, the message does not begin with "kpdeform: ": ops/_call.py would
// then blame the caller's data.
#define KPDEFORM_CUDA_CHECK(call) ::kpdeform::check_cuda((call), #call)
inline void check_cuda(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA error in ") + call + ": " +
                           cudaGetErrorString(result));
}

// ---- host

// The dynamic shared memory of a block that every device since sm_75 has.
constexpr int64_t kMostShared = 64 << 10;

#ifndef KPDEFORM_CUDA_SHIM
// The index of the tensor's device. Fails if the tensor is not on a CUDA device.
inline int32_t cuda_device_of(const Tensor& tensor) {
  KPDEFORM_CHECK(tensor.is_cuda(), "some tensors are on a CUDA device, others are not");
  return tensor.get_device();
}
#endif

// Makes the tensor's device the current one during its lifetime. Launches on torch's current
// stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor)
#ifdef KPDEFORM_CUDA_SHIM
      : stream_(nullptr) {
    (void)tensor;
  }
#else
      : guard_(cuda_device_of(tensor)) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
#endif

  cudaStream_t stream() const { return stream_; }

  // The compute capability, for example 86 for 8.6.
  int capability() const {
    int device = 0, major = 0, minor = 0;
    KPDEFORM_CUDA_CHECK(cudaGetDevice(&device));
    KPDEFORM_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    KPDEFORM_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return 10 * major + minor;
  }

  // Whether the stream is being captured into a graph. If so, no code may wait for the device.
  bool capturing() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    KPDEFORM_CUDA_CHECK(cudaStreamIsCapturing(stream_, &status));
    return status != cudaStreamCaptureStatusNone;
  }

  // Runs kernel(arguments...) with up to `blocks` blocks, the number that would cover the work.
  // Kernels use grid-stride loops, so fewer blocks are fine; 0 launches nothing.
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads,
              const Arguments&... arguments) const {
    launch(kernel, Grid{blocks}, threads, 0, arguments...);
  }
  struct Grid {
    int64_t x, y = 1, z = 1;
  };
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), Grid grid, int threads, int64_t shared,
              const Arguments&... arguments) const {
    constexpr int64_t kMostBlocks = 1 << 20, kMostLayers = 65535;
    if (grid.x * grid.y * grid.z == 0) return;
    KPDEFORM_CHECK(shared <= kMostShared, "too many kernel points for shared memory");
    KPDEFORM_CHECK(grid.y <= kMostLayers && grid.z <= kMostLayers, "too many groups or channels");
    const dim3 blocks(unsigned(std::min(grid.x, kMostBlocks)), unsigned(grid.y), unsigned(grid.z));
#ifdef KPDEFORM_CUDA_SHIM
    shim::run(blocks, threads, shared, (int64_t(sizeof(arguments)) + ... + 0),
              [&] { kernel(arguments...); });
#else
    constexpr int64_t kAlwaysAllowed = 48 << 10;
    if (shared > kAlwaysAllowed)
      KPDEFORM_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               int(shared)));
    // clang-format off: it understands <<< >>> in .cu files only
    kernel<<<blocks, threads, size_t(shared), stream_>>>(arguments...);
    // clang-format on
    KPDEFORM_CUDA_CHECK(cudaGetLastError());
#endif
  }

 private:
#ifndef KPDEFORM_CUDA_SHIM
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
};

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// torch::stable::narrow with the tensor by value, because it needs a mutable one.
inline Tensor part_of(Tensor tensor, int64_t dim, int64_t start, int64_t length) {
  return torch::stable::narrow(tensor, dim, start, length);
}

// Scratch memory on the device of `like`, from torch's allocator.
inline Tensor scratch(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

// Calls body with a value of the element type: float, double, Half or BFloat16.
template <typename Body>
auto dispatch_features(const Tensor& features, const Body& body) {
  switch (features.scalar_type()) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Half:
      return body(Half{});
    case ScalarType::BFloat16:
      return body(BFloat16{});
    default:
      fail_check("features must be float32, float64, float16 or bfloat16");
  }
}

// Calls body(F(), vector) with the element type of tensors whose rows have equally many channels, and
// with the number of neighbouring channels that are accessed at once, a compile-time constant: 16
// bytes of them if the number of channels and the pointers allow this, else one.
template <typename Body>
void with_packs(std::initializer_list<MaybeTensor> rows, const Body& body) {
  dispatch_features(**rows.begin(), [&](auto f) {
    constexpr int kWide = 16 / sizeof(f);
    bool wide = true;
    for (const MaybeTensor& tensor : rows)
      wide = wide && (!tensor.has_value() ||
                      (tensor->size(1) % kWide == 0 &&
                       reinterpret_cast<uintptr_t>(tensor->const_data_ptr()) % 16 == 0));
    if (wide)
      body(f, std::integral_constant<int, kWide>{});
    else
      body(f, std::integral_constant<int, 1>{});
  });
}

// ---- device

// The type in which values of type F are computed.
template <typename F>
using Sum = std::conditional_t<std::is_same_v<F, double>, double, float>;

// A pointer to int32 or int64 numbers. All threads take the same branch.
struct Indices {
  const void* data;
  bool wide;
  __device__ int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i]
                : int64_t(static_cast<const int32_t*>(data)[i]);
  }
};

inline Indices indices(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.scalar_type() == ScalarType::Long};
}

__device__ inline int64_t global_thread() {
  return int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t num_threads_of_grid() {
  return int64_t(gridDim.x) * blockDim.x;
}

// kCount neighbouring threads of a warp that work together; kCount is a power of two. A group of
// one lane needs no collective operations.
template <int kCount>
struct LaneGroup {
  int lane;       // number of this thread in the group, 0 to kCount - 1
  int first;      // position of lane 0 in the warp
  unsigned mask;  // mask of the group in the warp

  __device__ LaneGroup() {
    const int in_warp = threadIdx.x % 32;
    lane = in_warp % kCount;
    first = in_warp - lane;
    mask = (kCount == 32 ? ~0u : (1u << kCount % 32) - 1) << first;
  }

  // Synchronises the lanes: what one wrote to shared memory is visible to all of them afterwards.
  __device__ void sync() const {
    if constexpr (kCount > 1) __syncwarp(mask);
  }
  // Bit i is the argument of lane i.
  __device__ unsigned ballot(bool says) const {
    if constexpr (kCount == 1) return says;
    return __ballot_sync(mask, says) >> first & (mask >> first);
  }
  __device__ unsigned lanes_before() const { return (1u << lane) - 1; }

  // Returns to every lane the sum over all lanes, in one fixed order.
  template <typename T>
  __device__ T sum(T value) const {
    for (int distance = kCount / 2; distance > 0; distance /= 2)
      value += __shfl_xor_sync(mask, value, distance);
    return value;
  }
  // Returns the value of lane `from`.
  template <typename T>
  __device__ T broadcast(T value, int from) const {
    if constexpr (kCount == 1) return value;
    return __shfl_sync(mask, value, first + from);
  }
};

// Returns to every thread of a block the sum of the values of its warps, of which each has one, in one
// fixed order. The block needs kSharedOfWarps bytes of dynamic shared memory.
constexpr int64_t kSharedOfWarps = 32 * sizeof(double);
__device__ inline double sum_of_warps(double value) {
  KPDEFORM_SHARED(memory);
  double* const shared = reinterpret_cast<double*>(memory);
  __syncthreads();  // earlier sums have been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp];
  return sum;
}

// kCount values that are read and written in one access; kCount * sizeof(T) is at most 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  static constexpr int kSize = kCount;
  T values[kCount];
};
template <int kCount, typename T>
__device__ Pack<T, kCount> load_pack(const T* from) {
#ifdef KPDEFORM_CUDA_SHIM
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Pack<T, kCount>) != 0)
    shim::fail("a pack is not aligned");
#endif
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}
// Stores to global memory, not to shared memory.
template <int kCount, typename T>
__device__ void store_pack(T* to, const Pack<T, kCount>& pack) {
#ifndef KPDEFORM_CUDA_SHIM
  if constexpr (sizeof(pack) == 16) {  // nvcc would store it in four pieces
    uint32_t words[4];
    std::memcpy(words, &pack, sizeof(pack));
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(words[0]), "r"(words[1]),
                 "r"(words[2]), "r"(words[3])
                 : "memory");
    return;
  }
#else
  if (reinterpret_cast<uintptr_t>(to) % sizeof(pack) != 0) shim::fail("a pack is not aligned");
#endif
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

// The square root to about one unit in the last place; that of numbers below 1e-38 is 0.
__device__ inline float approximate_sqrt(float x) {
#ifdef KPDEFORM_CUDA_SHIM
  return std::sqrt(x);
#else
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#endif
}
// 1 / sqrt(x) to two units in the last place, for x > 0.
__device__ inline float approximate_inverse_sqrt(float x) {
#ifdef KPDEFORM_CUDA_SHIM
  return 1 / std::sqrt(x);
#else
  float root;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#endif
}

}  // namespace kpdeform
