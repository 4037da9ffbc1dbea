// neighbor_pool and its gradient on CUDA. Contract: neighbor_pool.h. An index that is neither a row
// nor an empty slot counts as empty here and is never read.
//
// One thread owns one row and kVector neighbouring channels, which it reads 16 bytes at a time. The
// gradient uses the transposed table: no atomics, and every sum is in the order of (m, h). Bound:
// memory; M*H rows of features from L2.
#include <limits>
#include <tuple>

#include "kpconv/transpose_neighbors_cuda.h"
#include "pooling/neighbor_pool.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;

template <typename F>
struct Pool {
  const F* in;  // (N, C): features; backward (M, C): gradient
  F* out;       // (M, C); backward (N, C)
  Indices neighbors;
  int64_t num_queries, num_points, width;
  int packs;  // packs of channels per row
  int64_t reduce;
  bool shadow_zero;
  int16_t* argmax;        // (M, C), for max
  const int32_t* slots;   // backward: (M,) number of occupied slots (mean), or first one (nearest)
  const int64_t* starts;  // backward: the transposed table, whose values may be any
  Indices members;

  // The row of features that a slot holds, or -1 if it is empty.
  __device__ int64_t at(int64_t m, int64_t h) const {
    const int64_t n = neighbors[m * width + h];
    return n >= 0 && n < num_points ? n : -1;
  }
};

template <typename F, int kVector>
__device__ void pool_max(const Pool<F>& pool, int64_t m, int64_t place, int64_t channels,
                         int64_t c) {
  Sum<F> best[kVector] = {};
  int16_t slot[kVector];
  bool empty = true, shadow = false;
  for (int v = 0; v < kVector; ++v) slot[v] = -1;
  for (int64_t h = 0; h < pool.width; ++h) {
    const int64_t n = pool.at(m, h);
    if (n < 0) {
      shadow = pool.shadow_zero;
      continue;
    }
    const auto x = load_pack<kVector>(pool.in + n * channels + c);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const Sum<F> value = Sum<F>(x.values[v]);
      if (empty || value > best[v] || value != value) {
        best[v] = value;
        slot[v] = int16_t(h);
      }
    }
    empty = false;
  }
  Pack<F, kVector> out;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    const bool none = empty || (shadow && best[v] < 0);
    out.values[v] = F(none ? Sum<F>(0) : best[v]);
    pool.argmax[place + v] = none ? int16_t(-1) : slot[v];
  }
  store_pack(pool.out + place, out);
}

template <typename F, int kVector>
__device__ void pool_mean(const Pool<F>& pool, int64_t m, int64_t place, int64_t channels,
                          int64_t c) {
  Sum<F> sum[kVector] = {};
  int64_t count = 0;
  for (int64_t h = 0; h < pool.width && !(pool.reduce == kNearest && count == 1); ++h) {
    const int64_t n = pool.at(m, h);
    if (n < 0) continue;
    ++count;
    const auto x = load_pack<kVector>(pool.in + n * channels + c);
#pragma unroll
    for (int v = 0; v < kVector; ++v) sum[v] += Sum<F>(x.values[v]);
  }
  Pack<F, kVector> out;
#pragma unroll
  for (int v = 0; v < kVector; ++v)
    out.values[v] = F(sum[v] / Sum<F>(count > 0 ? count : int64_t(1)));
  store_pack(pool.out + place, out);
}

template <typename F, int kVector>
__global__ void pool_kernel(const Pool<F> pool) {
  const int64_t channels = int64_t(pool.packs) * kVector;
  for (int64_t i = global_thread(); i < pool.num_queries * pool.packs; i += num_threads_of_grid()) {
    const int64_t m = i / pool.packs, c = (i - m * pool.packs) * kVector;
    if (pool.reduce == kMax)
      pool_max<F, kVector>(pool, m, m * channels + c, channels, c);
    else
      pool_mean<F, kVector>(pool, m, m * channels + c, channels, c);
  }
}

template <typename F>
__global__ void slots_kernel(const Pool<F> pool, int32_t* slots) {
  for (int64_t m = global_thread(); m < pool.num_queries; m += num_threads_of_grid()) {
    int32_t count = 0, first = -1;
    for (int64_t h = 0; h < pool.width; ++h)
      if (pool.at(m, h) >= 0 && count++ == 0) first = int32_t(h);
    slots[m] = pool.reduce == kNearest ? first : count;
  }
}

template <typename F, int kVector>
__global__ void pool_backward_kernel(const Pool<F> pool) {
  const int64_t channels = int64_t(pool.packs) * kVector;
  for (int64_t i = global_thread(); i < pool.num_points * pool.packs; i += num_threads_of_grid()) {
    const int64_t n = i / pool.packs, c = (i - n * pool.packs) * kVector;
    Sum<F> sum[kVector] = {};
    int64_t previous = -1;
    const int64_t begin = pool.starts[n], end = pool.starts[n + 1];
    const bool valid = begin >= 0 && end <= pool.num_queries * pool.width;
    for (int64_t t = begin; valid && t < end; ++t) {
      const int64_t m = pool.members[t];
      if (m < 0 || m >= pool.num_queries) continue;
      const bool again = m == previous;  // a point may occur twice in a row; only mean counts both
      previous = m;
      if (pool.reduce != kMean && again) continue;
      if (pool.reduce == kNearest && pool.at(m, pool.slots[m]) != n) continue;
      const Sum<F> share = pool.reduce == kMean ? Sum<F>(1) / Sum<F>(pool.slots[m]) : Sum<F>(1);
      const auto grad = load_pack<kVector>(pool.in + m * channels + c);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if (pool.reduce == kMax) {
          const int64_t slot = pool.argmax[m * channels + c + v];
          if (slot < 0 || slot >= pool.width || pool.at(m, slot) != n) continue;
        }
        sum[v] += Sum<F>(grad.values[v]) * share;
      }
    }
    Pack<F, kVector> out;
#pragma unroll
    for (int v = 0; v < kVector; ++v) out.values[v] = F(sum[v]);
    store_pack(pool.out + n * channels + c, out);
  }
}

template <typename F>
Pool<F> make_pool(const Tensor& in, const Tensor& out, const Tensor& neighbors, int64_t num_points,
                  int64_t reduce, int vector) {
  Pool<F> pool{};
  pool.in = data<F>(in);
  pool.out = mutable_data<F>(out);
  pool.neighbors = indices(neighbors);
  pool.num_queries = neighbors.size(0);
  pool.num_points = num_points;
  pool.width = neighbors.size(1);
  pool.packs = int(in.size(1) / vector);
  pool.reduce = reduce;
  return pool;
}

void check_table(const Tensor& rows, const Tensor& neighbors, int64_t reduce) {
  KPDEFORM_CHECK(rows.dim() == 2 && neighbors.dim() == 2 &&
                     neighbors.size(1) <= std::numeric_limits<int16_t>::max(),
                 "features must be (N, C), neighbors (M, H) with at most 32767 slots");
  KPDEFORM_CHECK(
      neighbors.scalar_type() == ScalarType::Int || neighbors.scalar_type() == ScalarType::Long,
      "neighbors must be int32 or int64");
  KPDEFORM_CHECK(rows.get_device() == neighbors.get_device(),
                 "features and neighbors are on different devices");
  KPDEFORM_CHECK(kMax <= reduce && reduce <= kNearest, "reduce must be 0, 1 or 2");
}

std::tuple<Tensor, Tensor> neighbor_pool(const Tensor& features, const Tensor& neighbors,
                                         int64_t reduce, bool shadow_zero) {
  check_table(features, neighbors, reduce);
  const OnDevice device(features);
  const Tensor in = torch::stable::contiguous(features);
  const Tensor table = torch::stable::contiguous(neighbors);
  const int64_t rows = neighbors.size(0), channels = features.size(1);
  const Tensor out = torch::stable::new_empty(in, {rows, channels});
  const Tensor argmax =
      torch::stable::new_empty(in, {reduce == kMax ? rows : 0, channels}, ScalarType::Short);
  with_packs({in, out}, [&](auto f, auto vector) {
    using F = decltype(f);
    Pool<F> pool = make_pool<F>(in, out, table, in.size(0), reduce, vector());
    pool.shadow_zero = shadow_zero;
    pool.argmax = mutable_data<int16_t>(argmax);
    device.launch(pool_kernel<F, vector()>, divide_up(rows * pool.packs, kBlock), kBlock, pool);
  });
  return {out, argmax};
}

Tensor neighbor_pool_backward(const Tensor& grad, const Tensor& neighbors, const Tensor& argmax,
                              int64_t num_points, int64_t reduce, MaybeTensor starts,
                              MaybeTensor members) {
  check_table(grad, neighbors, reduce);
  KPDEFORM_CHECK(grad.size(0) == neighbors.size(0), "grad must have one row per row of neighbors");
  KPDEFORM_CHECK(num_points >= 0 && num_points <= 4294967295,
                 "num_points must be 0 to 4294967295, got ", num_points);
  KPDEFORM_CHECK(
      reduce != kMax ||
          (argmax.dim() == 2 && argmax.size(0) == grad.size(0) && argmax.size(1) == grad.size(1) &&
           argmax.scalar_type() == ScalarType::Short && argmax.get_device() == grad.get_device()),
      "argmax must be the (M, C) one of the forward pass");
  const OnDevice device(grad);
  const Tensor in = torch::stable::contiguous(grad);
  const Tensor table = torch::stable::contiguous(neighbors);
  const Tensor taken = torch::stable::contiguous(argmax);
  const Tensor out = torch::stable::new_empty(in, {num_points, in.size(1)});
  const TransposedTable transposed = transposed_table(device, table, num_points, starts, members);
  const Tensor slots = torch::stable::new_empty(table, {table.size(0)}, ScalarType::Int);
  with_packs({in, out}, [&](auto f, auto vector) {
    using F = decltype(f);
    Pool<F> pool = make_pool<F>(in, out, table, num_points, reduce, vector());
    pool.argmax = mutable_data<int16_t>(taken);
    pool.starts = data<int64_t>(transposed.starts);
    pool.members = indices(transposed.members);
    pool.slots = data<int32_t>(slots);
    if (reduce != kMax)
      device.launch(slots_kernel<F>, divide_up(pool.num_queries, kBlock), kBlock, pool,
                    mutable_data<int32_t>(slots));
    device.launch(pool_backward_kernel<F, vector()>, divide_up(num_points * pool.packs, kBlock),
                  kBlock, pool);
  });
  return out;
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("neighbor_pool", TORCH_BOX(&neighbor_pool));
  m.impl("neighbor_pool_backward", TORCH_BOX(&neighbor_pool_backward));
}

}  // namespace kpdeform
