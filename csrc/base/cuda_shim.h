// The part of CUDA that the kernels use, implemented on one CPU thread, so that tests can run the
// unmodified kernel source without a GPU. Every thread of a block is a fiber; a collective
// operation lets other fibers run until all lanes that it names have arrived. The fibers of a block
// take turns in an order of its own: from first to last, from last to first, or random. Code that
// lacks a synchronisation fails in some of them. KPDEFORM_SHIM_SEED selects other orders. Limits of
// CUDA are asserted: threads, shared memory, grid, size of arguments, alignment of packs. The shim
// does not model CUDA's memory consistency.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace kpdeform::shim {

struct Fiber {
  ucontext_t start;  // used once; later turns use longjmp, without a system call
  jmp_buf turn;
  std::unique_ptr<char[]> stack;
  bool begun = false, done = false;
};

// A collective operation of the threads that a mask names in one warp (or of the whole block).
struct Meeting {
  uint64_t arrived = 0;
  int64_t times = 0;
  uint64_t values[32] = {}, result[32] = {};
};

struct Machine {
  dim3 grid, block, block_index, thread_index;
  std::vector<unsigned char> shared;
  std::vector<Fiber> fibers;
  jmp_buf scheduler;
  unsigned current = 0, alive = 0;
  uint64_t blocks = 0;  // number of blocks that have run in all launches
  bool progress = false;
  std::map<std::pair<unsigned, unsigned>, Meeting> warps;  // key: warp and mask
  Meeting whole;
  std::function<void()> body;
};

inline Machine& machine() {
  static Machine instance;
  return instance;
}

inline unsigned char* dynamic_shared() {
  unsigned char* data = machine().shared.data();
  return data + (16 - reinterpret_cast<uintptr_t>(data) % 16) % 16;
}

// Yields to the other fibers.
inline void wait() {
  Machine& m = machine();
  if (_setjmp(m.fibers[m.current].turn) == 0) _longjmp(m.scheduler, 1);
}

// Runs the current fiber until it yields or finishes a block.
inline void take_turn() {
  Machine& m = machine();
  Fiber& fiber = m.fibers[m.current];
  if (_setjmp(m.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.turn, 1);
  fiber.begun = true;
  setcontext(&fiber.start);
}

// The main function of a fiber: runs its thread of one block after another.
inline void enter() {
  Machine& m = machine();
  while (true) {
    m.body();
    m.fibers[m.current].done = true;
    m.progress = true;
    --m.alive;
    wait();
  }
}

inline void make_fiber(Fiber& fiber) {
  constexpr size_t kStack = 256 << 10;
  fiber.stack.reset(new char[kStack]);
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_shim: %s\n", what);
  std::abort();
}

// The order in which the threads of a block take turns.
inline std::vector<unsigned> order_of_threads(unsigned threads, uint64_t block) {
  static const uint64_t seed = [] {
    const char* const text = std::getenv("KPDEFORM_SHIM_SEED");
    return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
  }();
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  std::minstd_rand random(unsigned(seed * 0x9e3779b1 + block * 0x85ebca77 + 1));
  random.discard(2);
  switch (random() % 4) {
    case 0:
      break;
    case 1:
      std::reverse(order.begin(), order.end());
      break;
    default:
      std::shuffle(order.begin(), order.end(), random);
  }
  return order;
}

inline void run_block() {
  Machine& m = machine();
  const unsigned threads = m.block.x;
  if (m.fibers.size() < threads) m.fibers.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    if (!m.fibers[i].stack) make_fiber(m.fibers[i]);
    m.fibers[i].done = false;
  }
  const std::vector<unsigned> order = order_of_threads(threads, m.blocks++);
  m.warps.clear();
  m.whole = Meeting();
  m.alive = threads;
  while (m.alive > 0) {
    m.progress = false;
    for (const unsigned thread : order) {
      m.current = thread;
      if (m.fibers[m.current].done) continue;
      m.thread_index = dim3(m.current, 0, 0);
      take_turn();
    }
    if (!m.progress) fail("deadlock: every thread is waiting at a collective");
  }
}

template <typename Body>
void run(dim3 grid, int threads, int64_t shared_bytes, int64_t argument_bytes, const Body& body) {
  constexpr unsigned kMostLayers = 65535;
  if (threads < 1 || threads > 1024) fail("a block has 1 to 1024 threads");
  if (shared_bytes > (64 << 10)) fail("sm_75 has 64 KB of shared memory for a block");
  if (grid.y > kMostLayers || grid.z > kMostLayers) fail("a grid has at most 65535 layers");
  if (argument_bytes > (4 << 10)) fail("the arguments of a kernel have at most 4 KB");
  Machine& m = machine();
  m.grid = grid;
  m.block = dim3(unsigned(threads), 1, 1);
  m.body = body;
  for (uint64_t i = 0; i < uint64_t{grid.x} * grid.y * grid.z; ++i) {
    m.block_index = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    m.shared.assign(size_t(shared_bytes) + 16, 0xcd);  // kernels must not rely on zeros
    run_block();
  }
}

// Contributes `value` to the collective operation, waits for all lanes of the mask, and returns the
// values of all lanes.
inline const uint64_t* meet(unsigned mask, uint64_t value) {
  Machine& m = machine();
  const unsigned lane = m.current % 32;
  if ((mask >> lane & 1) == 0) fail("a thread calls a collective that does not name it");
  Meeting& meeting = m.warps[{m.current / 32, mask}];
  meeting.values[lane] = value;
  meeting.arrived |= uint64_t{1} << lane;
  const int64_t times = meeting.times;
  if (meeting.arrived == mask) {
    std::memcpy(meeting.result, meeting.values, sizeof(meeting.values));
    meeting.arrived = 0;
    ++meeting.times;
    m.progress = true;
  }
  while (meeting.times == times) wait();
  return meeting.result;
}

inline void meet_block() {
  Machine& m = machine();
  const int64_t times = m.whole.times;
  ++m.whole.arrived;
  while (m.whole.times == times) {
    if (m.whole.arrived == m.alive) {
      m.whole.arrived = 0;
      ++m.whole.times;
      m.progress = true;
    } else {
      wait();
    }
  }
}

template <typename T>
uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}
template <typename T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

}  // namespace kpdeform::shim

#define threadIdx (::kpdeform::shim::machine().thread_index)
#define blockIdx (::kpdeform::shim::machine().block_index)
#define blockDim (::kpdeform::shim::machine().block)
#define gridDim (::kpdeform::shim::machine().grid)

inline void __syncthreads() {
  kpdeform::shim::meet_block();
}
inline void __syncwarp(unsigned mask) {
  kpdeform::shim::meet(mask, 0);
}
inline unsigned __ballot_sync(unsigned mask, bool says) {
  const uint64_t* said = kpdeform::shim::meet(mask, says);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) != 0 && said[lane] != 0) bits |= 1u << lane;
  return bits;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  const unsigned lane = kpdeform::shim::machine().current % 32;
  return kpdeform::shim::from_word<T>(
      kpdeform::shim::meet(mask, kpdeform::shim::to_word(value))[lane ^ unsigned(distance)]);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return kpdeform::shim::from_word<T>(
      kpdeform::shim::meet(mask, kpdeform::shim::to_word(value))[lane]);
}
inline int __popc(unsigned bits) {
  return std::popcount(bits);
}
inline int __clzll(long long bits) {
  return std::countl_zero(static_cast<unsigned long long>(bits));
}
template <typename T>
T atomicAdd(T* target, T value) {
  const T old = *target;
  *target = old + value;
  return old;
}
template <typename T>
T atomicMax(T* target, T value) {
  const T old = *target;
  *target = old < value ? value : old;
  return old;
}
template <typename T>
T atomicMin(T* target, T value) {
  const T old = *target;
  *target = value < old ? value : old;
  return old;
}
// Every operation is rounded separately: the shim is compiled with -ffp-contract=off.
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dsub_rn(double a, double b) {
  return a - b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __ddiv_rn(double a, double b) {
  return a / b;
}

// ---- runtime

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };

inline const char* cudaGetErrorString(cudaError_t) {
  return "no error";
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = std::getenv("KPDEFORM_SHIM_CAPTURE") != nullptr ? cudaStreamCaptureStatusActive
                                                            : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
