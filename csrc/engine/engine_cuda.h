// The engine on CUDA: kernels that walk over sites, list the weighted source rows of every kernel
// point as given by a sampler, and accumulate them. A new convolution needs a new sampler, not a
// new kernel.
//
//   gather             S[m,k,:] = mod[m,k] * sum of a * x[row]              combined by a product
//   depthwise          out[m,:] = sum_k mod[m,k] * w[k,:] * sum of a * x[row]
//   depthwise_weight   grad_w[k,:] = sum_m mod[m,k] * grad[m,:] * sum of a * x[row]
//   site_gradients     gradients of offsets and modulations from the gradient of S
//
// kLanes neighbouring threads own one site; each lane owns kVector neighbouring channels, which it
// reads 16 bytes at a time. The lanes of a site put its sources into shared memory. Then, for each
// kernel point, they list the sources with a nonzero coefficient (one in eight with linear
// influence) in their order, with one ballot per kLanes sources and no atomics. Walking the lists,
// each lane keeps kVector sums in registers. Every sum has one fixed order, whatever the launch
// shape.
//
// Shared memory per site: `stage` sources and `capacity` list entries. A site with more sources or
// entries is processed in parts. Limit: the number of rows of x must be below 2^32 - 1.
#pragma once

#include "base/cuda.h"
#include "samplers/sampler_cuda.h"

namespace kpdeform {

constexpr int kThreads = 128;

// A site is split into `num_groups` virtual sites, each of which handles channels / num_groups
// channels, or all channels if whole_rows.
template <typename T, typename F>
struct EngineNumbers {
  const F* features;      // (rows, channels)
  const F* weight;        // depthwise: (K, C)
  const F* grad;          // depthwise_weight, depthwise site gradients: (M, C)
  F* out;                 // gather: (sites, G, K, C/G); depthwise: (M, C)
  const F* grad_sampled;  // site_gradients: (sites, G, K, C/G)
  T* partial;             // depthwise_weight: (partials, K, C)
  T *grad_offsets, *grad_modulations;
  int64_t first_site, sites;  // the chunk of sites to process
  int channels;
  int group_channels;   // channels / G
  int num_groups;       // virtual sites per site (deformation groups), numbered by blockIdx.y
  bool whole_rows;      // every virtual site handles all channels and writes rows of its own
  int stage, capacity;  // capacity of shared memory per site: sources, list entries
};
template <typename Sampler, typename F>
struct EngineArguments : EngineNumbers<typename Sampler::T, F> {
  Sampler sampler;
};

// The lists of one site, in the shared memory of its lanes.
template <typename Sampler, int kLanes, bool kDerivative>
class SiteLists {
 public:
  using T = typename Sampler::T;
  using Source = typename Sampler::Source;
  struct Derivative {
    T by[Sampler::kDims];
  };

  static __host__ __device__ int64_t bytes(int stage, int capacity, int num_kernel_points) {
    int64_t size = stage * sizeof(Source) + capacity * (sizeof(T) + sizeof(uint32_t)) +
                   (num_kernel_points + 1) * sizeof(int);
    if (kDerivative) size += capacity * sizeof(Derivative);
    return (size + 127) / 128 * 128 + 32;  // so that the sites of a warp start at different banks
  }

  __device__ SiteLists(const Sampler& sampler, int stage, int capacity, unsigned char* shared)
      : sampler_(sampler), stage_(stage), capacity_(capacity) {
    sources_ = reinterpret_cast<Source*>(shared);
    values = reinterpret_cast<T*>(sources_ + stage);
    derivatives = reinterpret_cast<Derivative*>(values + capacity);
    rows = reinterpret_cast<uint32_t*>(kDerivative ? reinterpret_cast<T*>(derivatives + capacity)
                                                   : values + capacity);
    begins_ = reinterpret_cast<int*>(rows + capacity);
  }

  // Selects a site and group; returns its number of sources.
  __device__ int64_t open(int64_t site, int group) {
    site_ = site;
    group_ = group;
    num_sources_ = sampler_.num_sources(site, group);
    staged_ = -1;
    return num_sources_;
  }

  // Lists the pairs of kernel points `first`, `first` + 1, ..., below `limit`, with at most `stage`
  // sources from `begin` on. It lists as many kernel points as certainly fit, but only one if the
  // site has more than `stage` sources. Returns the end of the range of kernel points.
  __device__ int fill(int first, int64_t begin, int limit) {
    const int count = int(num_sources_ - begin < stage_ ? num_sources_ - begin : stage_);
    lanes.sync();  // no lane reads the previous lists any more
    if (staged_ != begin) {
      // No sync is needed here: a lane reads only the sources that it wrote itself.
      for (int i = lanes.lane; i < count; i += kLanes)
        sources_[i] = sampler_.source(site_, begin + i, group_);
      staged_ = begin;
    }
    first_ = first;
    int used = 0, k = first;
    do {
      if (lanes.lane == 0) begins_[k - first] = used;
      const auto place = sampler_.place(site_, k, group_);
      for (int base = 0; base < count; base += kLanes) {
        const int i = base + lanes.lane;
        typename Sampler::Coefficient a{};
        a.row = kNoRow;
        if (i < count)
          a = sampler_.template coefficient<kDerivative>(place, sources_[i], k, group_);
        const unsigned counts = lanes.ballot(a.row != kNoRow);
        if (a.row != kNoRow) {
          const int at = used + __popc(counts & lanes.lanes_before());
          values[at] = a.value;
          rows[at] = a.row;
          if constexpr (kDerivative) {
#pragma unroll
            for (int d = 0; d < Sampler::kDims; ++d) derivatives[at].by[d] = a.derivative[d];
          }
        }
        used += __popc(counts);
      }
      ++k;
    } while (k < limit && num_sources_ <= stage_ && used + count <= capacity_);
    if (lanes.lane == 0) begins_[k - first] = used;
    lanes.sync();
    return k;
  }

  __device__ int begin(int k) const { return begins_[k - first_]; }
  __device__ int end(int k) const { return begins_[k - first_ + 1]; }

  const LaneGroup<kLanes> lanes;
  T* values;
  Derivative* derivatives;
  uint32_t* rows;

 private:
  const Sampler& sampler_;
  const int stage_, capacity_;
  Source* sources_;
  int* begins_;
  int64_t site_ = 0, num_sources_ = 0, staged_ = -1;
  int group_ = 0, first_ = 0;
};

// Adds the weighted rows in the list of kernel point k to the sums of kVector channels from c on.
template <int kVector, typename Lists, typename F, typename T>
__device__ void add_list(const Lists& lists, int k, const F* features, int channels, int c,
                         T* sum) {
  const int end = lists.end(k);
#pragma unroll 4
  for (int t = lists.begin(k); t < end; ++t) {
    const T a = lists.values[t];
    const auto x = load_pack<kVector>(features + int64_t(lists.rows[t]) * channels + c);
#pragma unroll
    for (int v = 0; v < kVector; ++v) sum[v] += a * T(x.values[v]);
  }
}

// The site, group and channels of virtual site (i, blockIdx.y) of a chunk.
struct VirtualSite {
  int64_t site, row;  // row: in the chunk's buffer
  int group;
  int begin, end;  // channels
};
template <typename Arguments>
__device__ VirtualSite virtual_site(const Arguments& args, int64_t i) {
  VirtualSite at;
  at.site = args.first_site + i;
  at.group = int(blockIdx.y);
  at.row = args.whole_rows ? i * args.num_groups + at.group : i;
  const int width = args.channels / args.num_groups;
  at.begin = args.whole_rows ? 0 : at.group * width;
  at.end = args.whole_rows ? args.channels : at.begin + width;
  return at;
}

// The position of (k, c) in one row (G, K, C/G) of S.
__device__ inline int64_t place_in_row(int c, int k, int num_kernel_points, int group_channels) {
  const int group = unsigned(c) / unsigned(group_channels);
  return (int64_t(group) * num_kernel_points + k) * group_channels + (c - group * group_channels);
}

template <int kLanes>
__device__ int64_t first_virtual_site() {
  return global_thread() / kLanes;
}
template <int kLanes>
__device__ int64_t virtual_site_stride() {
  return num_threads_of_grid() / kLanes;
}

template <typename Sampler, typename F, int kLanes, int kVector>
__global__ void __launch_bounds__(kThreads, 4)
    gather_kernel(const EngineArguments<Sampler, F> args) {
  using T = typename Sampler::T;
  using Lists = SiteLists<Sampler, kLanes, false>;
  KPDEFORM_SHARED(shared);
  const int num_kernel_points = args.sampler.num_kernel_points;
  Lists lists(
      args.sampler, args.stage, args.capacity,
      shared + threadIdx.x / kLanes * Lists::bytes(args.stage, args.capacity, num_kernel_points));
  const int lane_channel = lists.lanes.lane * kVector;
  constexpr int kSpan = kLanes * kVector;
  for (int64_t i = first_virtual_site<kLanes>(); i < args.sites;
       i += virtual_site_stride<kLanes>()) {
    const VirtualSite at = virtual_site(args, i);
    F* const out = args.out + at.row * num_kernel_points * args.channels;
    const int64_t sources = lists.open(at.site, at.group);
    const int step = sources > args.stage ? kSpan : at.end - at.begin;  // channels per fill()
    for (int k = 0, k_end = 0; k < num_kernel_points; k = k_end)
      for (int begin = at.begin; begin < at.end; begin += step) {
        T sum[kVector] = {};
        for (int64_t from = 0; from == 0 || from < sources; from += args.stage) {
          k_end = lists.fill(k, from, num_kernel_points);
          for (int j = k; j < k_end; ++j) {
            const T factor = args.sampler.site_factor(at.site, j, at.group);
            for (int c = begin + lane_channel; c < at.end && c < begin + step; c += kSpan) {
              add_list<kVector>(lists, j, args.features, args.channels, c, sum);
              if (from + args.stage < sources) continue;  // more sources follow
              Pack<F, kVector> pack;
#pragma unroll
              for (int v = 0; v < kVector; ++v) {
                pack.values[v] = F(factor * sum[v]);
                sum[v] = 0;
              }
              store_pack(out + place_in_row(c, j, num_kernel_points, args.group_channels), pack);
            }
          }
        }
      }
  }
}

template <typename Sampler, typename F, int kLanes, int kVector>
__global__ void __launch_bounds__(kThreads, 4)
    depthwise_kernel(const EngineArguments<Sampler, F> args) {
  using T = typename Sampler::T;
  using Lists = SiteLists<Sampler, kLanes, false>;
  KPDEFORM_SHARED(shared);
  const int num_kernel_points = args.sampler.num_kernel_points;
  Lists lists(
      args.sampler, args.stage, args.capacity,
      shared + threadIdx.x / kLanes * Lists::bytes(args.stage, args.capacity, num_kernel_points));
  constexpr int kSpan = kLanes * kVector;
  for (int64_t i = first_virtual_site<kLanes>(); i < args.sites;
       i += virtual_site_stride<kLanes>()) {
    const VirtualSite at = virtual_site(args, i);
    const int64_t sources = lists.open(at.site, at.group);
    const bool whole =
        lists.fill(0, 0, num_kernel_points) == num_kernel_points && sources <= args.stage;
    for (int begin = at.begin; begin < at.end; begin += kSpan) {
      const int c = begin + lists.lanes.lane * kVector;
      T total[kVector] = {};
      for (int64_t from = 0; from == 0 || from < sources; from += args.stage)
        for (int k = 0, k_end = 0; k < num_kernel_points; k = k_end) {
          k_end = whole ? num_kernel_points : lists.fill(k, from, num_kernel_points);
          for (int j = k; j < k_end && c < at.end; ++j) {
            T sum[kVector] = {};
            add_list<kVector>(lists, j, args.features, args.channels, c, sum);
            const T factor = args.sampler.site_factor(at.site, j, at.group);
            const auto w = load_pack<kVector>(args.weight + j * args.channels + c);
#pragma unroll
            for (int v = 0; v < kVector; ++v) total[v] += factor * T(w.values[v]) * sum[v];
          }
        }
      if (c >= at.end) continue;
      Pack<F, kVector> pack;
#pragma unroll
      for (int v = 0; v < kVector; ++v) pack.values[v] = F(total[v]);
      store_pack(args.out + at.site * args.channels + c, pack);
    }
  }
}

// Grid: (partials, spans of kLanes * kVector channels in all num_groups, ranges of kRange kernel
// points). The lanes of a site accumulate in shared memory, each lane its own channels. Every block
// writes its sums to `partial`.
constexpr int kRange = 16, kWeightThreads = 64;

template <typename T, int kVector>
constexpr int64_t depthwise_sums_bytes() {
  return int64_t(kWeightThreads) * kVector * kRange * sizeof(T);
}

template <typename Sampler, typename F, int kLanes, int kVector>
__global__ void __launch_bounds__(kWeightThreads, 8)
    depthwise_weight_kernel(const EngineArguments<Sampler, F> args) {
  using T = typename Sampler::T;
  using Lists = SiteLists<Sampler, kLanes, false>;
  KPDEFORM_SHARED(shared);
  constexpr int kSpan = kLanes * kVector, kSites = kWeightThreads / kLanes, kSize = kRange * kSpan;
  const int num_kernel_points = args.sampler.num_kernel_points;
  T* const sums = reinterpret_cast<T*>(shared);  // (sites of the block, kRange, kSpan)
  const int sub = threadIdx.x / kLanes;
  Lists lists(args.sampler, args.stage, args.capacity,
              shared + depthwise_sums_bytes<T, kVector>() +
                  sub * Lists::bytes(args.stage, args.capacity, num_kernel_points));
  const int group_width = args.channels / args.num_groups;
  const unsigned spans = (group_width + kSpan - 1) / kSpan;
  const int group = blockIdx.y / spans;
  const int begin = group * group_width + int(blockIdx.y % spans) * kSpan;
  const int end = (group + 1) * group_width;
  const int first = blockIdx.z * kRange;
  const int last = first + kRange < num_kernel_points ? first + kRange : num_kernel_points;
  const int in_span = lists.lanes.lane * kVector;
  const int c = begin + in_span;
  T* const own = sums + sub * kSize;
  for (int k = 0; k < kRange; ++k)
    for (int v = 0; v < kVector; ++v) own[k * kSpan + in_span + v] = 0;
  for (int64_t site = first_virtual_site<kLanes>(); site < args.sites;
       site += virtual_site_stride<kLanes>()) {
    const int64_t sources = lists.open(site, group);
    for (int64_t from = 0; from == 0 || from < sources; from += args.stage)
      for (int k = first, k_end = 0; k < last; k = k_end) {
        k_end = lists.fill(k, from, last);
        if (c >= end) continue;
        const auto grad = load_pack<kVector>(args.grad + site * args.channels + c);
        for (int j = k; j < k_end; ++j) {
          T sum[kVector] = {};
          add_list<kVector>(lists, j, args.features, args.channels, c, sum);
          const T factor = args.sampler.site_factor(site, j, group);
#pragma unroll
          for (int v = 0; v < kVector; ++v)
            own[(j - first) * kSpan + in_span + v] += factor * T(grad.values[v]) * sum[v];
        }
      }
  }
  __syncthreads();
  T* const partial =
      args.partial + (int64_t(blockIdx.x) * num_kernel_points + first) * args.channels;
  for (int i = threadIdx.x; i < (last - first) * kSpan; i += kWeightThreads) {
    if (begin + i % kSpan >= end) continue;
    T total = 0;
    for (int s = 0; s < kSites; ++s) total += sums[s * kSize + i];
    partial[i / kSpan * args.channels + begin + i % kSpan] = total;
  }
}

// The gradient of S is weight * grad if kDepthwise, otherwise it is read from grad_sampled.
template <typename Sampler, typename F, int kLanes, int kVector, bool kDepthwise>
__global__ void __launch_bounds__(kThreads, 4)
    site_gradients_kernel(const EngineArguments<Sampler, F> args) {
  using T = typename Sampler::T;
  using Lists = SiteLists<Sampler, kLanes, true>;
  KPDEFORM_SHARED(shared);
  const Sampler& sampler = args.sampler;
  const int num_kernel_points = sampler.num_kernel_points;
  Lists lists(
      sampler, args.stage, args.capacity,
      shared + threadIdx.x / kLanes * Lists::bytes(args.stage, args.capacity, num_kernel_points));
  const int lane_channel = lists.lanes.lane * kVector;
  constexpr int kSpan = kLanes * kVector;
  for (int64_t i = first_virtual_site<kLanes>(); i < args.sites;
       i += virtual_site_stride<kLanes>()) {
    const VirtualSite at = virtual_site(args, i);
    const int64_t sources = lists.open(at.site, at.group);
    for (int k = 0, k_end = 0; k < num_kernel_points; k = k_end) {
      T by_modulation = 0, by_offset[Sampler::kDims] = {};
      for (int64_t from = 0; from == 0 || from < sources; from += args.stage) {
        k_end = lists.fill(k, from, num_kernel_points);
        for (int j = k; j < k_end; ++j) {
          for (int c = at.begin + lane_channel; c < at.end; c += kSpan) {
            T upstream[kVector];
            if constexpr (kDepthwise) {
              const auto w = load_pack<kVector>(args.weight + j * args.channels + c);
              const auto g = load_pack<kVector>(args.grad + at.site * args.channels + c);
#pragma unroll
              for (int v = 0; v < kVector; ++v) upstream[v] = T(w.values[v]) * T(g.values[v]);
            } else {
              const auto g = load_pack<kVector>(
                  args.grad_sampled + at.row * num_kernel_points * args.channels +
                  place_in_row(c, j, num_kernel_points, args.group_channels));
#pragma unroll
              for (int v = 0; v < kVector; ++v) upstream[v] = T(g.values[v]);
            }
            const int end = lists.end(j);
#pragma unroll 2
            for (int t = lists.begin(j); t < end; ++t) {
              const auto x =
                  load_pack<kVector>(args.features + int64_t(lists.rows[t]) * args.channels + c);
              T dot = 0;
#pragma unroll
              for (int v = 0; v < kVector; ++v) dot += upstream[v] * T(x.values[v]);
              by_modulation += lists.values[t] * dot;
#pragma unroll
              for (int d = 0; d < Sampler::kDims; ++d)
                by_offset[d] += lists.derivatives[t].by[d] * dot;
            }
          }
          if (from + args.stage < sources) continue;  // more sources follow
          const T of_modulation = lists.lanes.sum(by_modulation);
          const T factor = sampler.site_factor(at.site, j, at.group);
          by_modulation = 0;
          if (args.grad_modulations != nullptr && lists.lanes.lane == 0)
            args.grad_modulations[sampler.modulation_place(at.site, j, at.group, args.num_groups)] =
                of_modulation;
#pragma unroll
          for (int d = 0; d < Sampler::kDims; ++d) {
            const T of_offset = factor * lists.lanes.sum(by_offset[d]);
            by_offset[d] = 0;
            if (args.grad_offsets == nullptr || lists.lanes.lane != 0 || d >= sampler.dim) continue;
            const int64_t place = (at.site * args.num_groups + at.group) * num_kernel_points + j;
            args.grad_offsets[place * sampler.dim + d] = of_offset;
          }
        }
      }
    }
  }
}

}  // namespace kpdeform
