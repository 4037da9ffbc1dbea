// The engine on tensor cores, for samplers whose sources serve all kernel points of a site
// (Sampler::kSharesSources). A warp owns one site and computes the matrix product
//
//   S (16 kernel points, channels) = A (16, sources) X (sources, channels)
//
// The lanes compute the coefficients A straight into the operand of the instruction and read every
// row of features once per 16 kernel points, 16 bytes at a time. Nothing is listed, and no lane waits
// for another, except for the sources in shared memory. Every sum has one fixed order.
//
// Kernel points are taken 16 at a time and channels 8 * kVector * kPacks at a time: column n of
// product j is channel chunk_of(n) * kVector + j, so that the numbers that a lane reads and writes
// are neighbours in memory.
#pragma once

#include "engine/engine_cuda.h"
#include "engine/mma_cuda.h"

namespace kpdeform {

constexpr int kTile = 16;  // kernel points of one product

// Blocks of tensor_gather_kernel that a multiprocessor must be able to hold, which bounds registers:
// the fastest numbers on an H100.
template <typename Sampler, int kChannels>
constexpr int kGatherBlocks = kChannels > 64             ? 3
                              : Sampler::kTransposedView ? 4
                                                         : 5;

// The place of column n of a product among the 8 chunks of channels: columns 2 t and 2 t + 1, which
// belong to one lane, are 4 chunks apart, so that the lanes of a row write neighbouring chunks.
__device__ inline int chunk_of(int column) {
  return column / 2 + column % 2 * 4;
}

// The words of a row that begin at `features` in row 0; zeros if there is no row.
template <int kVector, typename F>
__device__ Words<F, kVector> load_row(const F* features, uint32_t row, int channels) {
  if (row == kNoRow) return {};
  const uint64_t bytes = uint64_t(row) * unsigned(channels * int(sizeof(F)));
  return load_words<kVector>(
      reinterpret_cast<const F*>(reinterpret_cast<const char*>(features) + bytes));
}

// One site of a warp.
template <typename Sampler, typename F>
class TensorSite {
 public:
  using Source = typename Sampler::Source;
  using Multiplier = Mma<F>;
  using A = typename Multiplier::Coefficients;
  static constexpr int kDepth = Multiplier::kDepth, kSlots = Multiplier::kSlots;

  // `keeps`: whether the coefficients are kept, for sites with several blocks of channels.
  static __host__ __device__ int64_t bytes(int stage, bool keeps) {
    return stage * sizeof(Source) + (keeps ? stage / kDepth * 32 * sizeof(A) : 0);
  }

  __device__ TensorSite(const Sampler& sampler, int stage, bool keeps, unsigned char* shared)
      : group(lanes.lane / 4), member(lanes.lane % 4), sampler_(sampler), stage_(stage) {
    shared += threadIdx.x / 32 * bytes(stage, keeps);
    sources_ = reinterpret_cast<Source*>(shared);
    kept_ = keeps ? reinterpret_cast<A*>(sources_ + stage) : nullptr;
  }

  __device__ void open(int64_t site, int deformation_group) {
    site_ = site;
    deformation_group_ = deformation_group;
    num_sources_ = sampler_.num_sources(site, deformation_group);
    staged_ = kept_tile_ = -1;
  }
  __device__ int64_t num_sources() const { return num_sources_; }

  // Selects kernel points 16 tile to 16 tile + 15; those of this lane are kernel_point(0) and (1).
  __device__ void select(int tile) {
    tile_ = tile;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      places_[r] = exists(r) ? sampler_.place(site_, kernel_point(r), deformation_group_)
                             : Sampler::nowhere();
  }
  __device__ int kernel_point(int r) const { return tile_ * kTile + group + 8 * r; }
  __device__ bool exists(int r) const { return kernel_point(r) < sampler_.num_kernel_points; }
  __device__ auto factor(int r) const {
    return sampler_.site_factor(site_, kernel_point(r), deformation_group_);
  }

  // Copies the sources from `from` on that have a row into shared memory, in their order; returns
  // how many there are. What follows them, up to a multiple of 16, has no row.
  __device__ int stage(int64_t from) {
    if (staged_ == from) return num_staged_;
    const int count = int(num_sources_ - from < stage_ ? num_sources_ - from : stage_);
    int used = 0;
    lanes.sync();  // no lane reads the previous sources any more
    for (int first = 0; first < count; first += 32) {
      const int i = first + lanes.lane;
      const Source source =
          i < count ? sampler_.source(site_, from + i, deformation_group_) : Sampler::no_source();
      const bool exists = source.row != kNoRow;
      const unsigned existing = lanes.ballot(exists);
      if (exists) sources_[used + __popc(existing & lanes.lanes_before())] = source;
      used += __popc(existing);
    }
    if (lanes.lane < (kTile - used % kTile) % kTile)
      sources_[used + lanes.lane] = Sampler::no_source();
    lanes.sync();
    staged_ = from;
    num_staged_ = used;
    return used;
  }
  __device__ const Source& source(int i) const { return sources_[i]; }

  // Calls body(h, r, value, derivative) for source `first` + h, h = 0, 1, and kernel point r = 0, 1
  // of the lane.
  template <typename Body>
  __device__ void for_each_coefficient(int first, const Body& body) const {
    sampler_.with_influence([&](auto influence) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const Source& source = sources_[first + h];
          float derivative[Sampler::kDims];
          const float value = sampler_.template weight_with_derivative<influence()>(
              places_[r], source, kernel_point(r), deformation_group_, derivative);
          if (sampler_.all_serve() || sampler_.serves(source, kernel_point(r)))
            body(h, r, value, derivative);
        }
    });
  }

  // Adds to `sums` the weighted rows of all sources, for the selected kernel points and the 8 *
  // kVector * kPacks channels from c on.
  template <int kVector, int kPacks>
  __device__ void add_rows(const F* features, int channels, int c,
                           MmaSums (&sums)[kVector * kPacks]) {
    const bool keeps = kept_ != nullptr && num_sources_ <= stage_;
    const bool known = keeps && kept_tile_ == tile_;
    features += c + chunk_of(group) * kVector;
    for (int64_t from = 0; from < num_sources_; from += stage_) {
      const int count = stage(from);
      for (int first = 0; first < count; first += kDepth) {
        Words<F, kVector> x[kPacks][kSlots];
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          const uint32_t row = sources_[first + Multiplier::slot(member, s)].row;
#pragma unroll
          for (int p = 0; p < kPacks; ++p)
            x[p][s] = load_row<kVector>(features + p * 8 * kVector, row, channels);
        }
        const int place = first / kDepth * 32 + lanes.lane;
        const A a = known ? kept_[place] : coefficients(first);
        if (keeps && !known) kept_[place] = a;
#pragma unroll
        for (int p = 0; p < kPacks; ++p)
#pragma unroll
          for (int j = 0; j < kVector; ++j) {
            uint32_t b[2];
            Multiplier::make_b(x[p], j, b);
            Multiplier::multiply(sums[p * kVector + j], a, b);
          }
      }
    }
    if (keeps) kept_tile_ = tile_;
  }

  const LaneGroup<32> lanes;
  const int group, member;  // of the lane in a product (mma_cuda.h)

 private:
  // The operand A of the sources from `first` on.
  __device__ A coefficients(int first) const {
    float values[2][kSlots];
    sampler_.with_influence([&](auto influence) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          values[r][s] = sampler_.template weight<influence()>(
              places_[r], sources_[first + Multiplier::slot(member, s)],
              exists(r) ? kernel_point(r) : 0, deformation_group_);
    });
    if (!sampler_.all_serve()) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          if (!sampler_.serves(sources_[first + Multiplier::slot(member, s)], kernel_point(r)))
            values[r][s] = 0;
    }
    return Multiplier::make_coefficients(values);
  }

  const Sampler& sampler_;
  const int stage_;
  Source* sources_;
  A* kept_;
  typename Sampler::Place places_[2] = {};
  int64_t site_ = 0, num_sources_ = 0, staged_ = -1;
  int num_staged_ = 0, deformation_group_ = 0, tile_ = 0, kept_tile_ = -1;
};

// Calls body(p, h, channel) for the packs of kVector channels that a lane has of the block of
// channels from c on: they are values[r * 2 + h] of sums p * kVector, p * kVector + 1, ...
template <int kVector, int kPacks, typename Body>
__device__ void for_each_pack(int c, int member, const Body& body) {
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int h = 0; h < 2; ++h) body(p, h, c + (p * 8 + chunk_of(2 * member + h)) * kVector);
}

template <typename Sampler, typename F, int kVector, int kPacks>
__global__ void __launch_bounds__(kThreads, kGatherBlocks<Sampler, 8 * kVector * kPacks>)
    tensor_gather_kernel(const EngineArguments<Sampler, F> args) {
  KPDEFORM_SHARED(shared);
  constexpr int kBlock = 8 * kVector * kPacks;  // channels
  const int num_kernel_points = args.sampler.num_kernel_points;
  TensorSite<Sampler, F> site(args.sampler, args.stage, args.channels > kBlock, shared);
  for (int64_t i = first_virtual_site<32>(); i < args.sites; i += virtual_site_stride<32>()) {
    const VirtualSite at = virtual_site(args, i);
    F* const out = args.out + at.row * num_kernel_points * args.channels;
    site.open(at.site, at.group);
    for (int tile = 0; tile * kTile < num_kernel_points; ++tile) {
      site.select(tile);
      for (int c = at.begin; c < at.end; c += kBlock) {
        MmaSums sums[kVector * kPacks];
        site.template add_rows<kVector, kPacks>(args.features, args.channels, c, sums);
        F* const block = out + place_in_row(c, 0, num_kernel_points, args.group_channels);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if (!site.exists(r)) continue;
          const float factor = site.factor(r);
          F* const row = block + site.kernel_point(r) * args.group_channels;
          for_each_pack<kVector, kPacks>(0, site.member, [&](int p, int h, int channel) {
            Pack<F, kVector> pack;
#pragma unroll
            for (int j = 0; j < kVector; ++j)
              pack.values[j] = F(factor * sums[p * kVector + j].values[r * 2 + h]);
            store_pack(row + channel, pack);
          });
        }
      }
    }
  }
}

template <typename Sampler, typename F, int kVector, int kPacks>
__global__ void __launch_bounds__(kThreads, 4)
    tensor_depthwise_kernel(const EngineArguments<Sampler, F> args) {
  KPDEFORM_SHARED(shared);
  constexpr int kBlock = 8 * kVector * kPacks;
  const int num_kernel_points = args.sampler.num_kernel_points;
  TensorSite<Sampler, F> site(args.sampler, args.stage,
                              args.channels > kBlock && num_kernel_points <= kTile, shared);
  for (int64_t i = first_virtual_site<32>(); i < args.sites; i += virtual_site_stride<32>()) {
    const VirtualSite at = virtual_site(args, i);
    site.open(at.site, at.group);
    for (int c = at.begin; c < at.end; c += kBlock) {
      float totals[2 * kPacks][kVector] = {};
      for (int tile = 0; tile * kTile < num_kernel_points; ++tile) {
        site.select(tile);
        MmaSums sums[kVector * kPacks];
        site.template add_rows<kVector, kPacks>(args.features, args.channels, c, sums);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if (!site.exists(r)) continue;
          const float factor = site.factor(r);
          const F* const weights = args.weight + int64_t(site.kernel_point(r)) * args.channels;
          for_each_pack<kVector, kPacks>(c, site.member, [&](int p, int h, int channel) {
            const auto w = load_pack<kVector>(weights + channel);
#pragma unroll
            for (int j = 0; j < kVector; ++j)
              totals[p * 2 + h][j] +=
                  factor * float(w.values[j]) * sums[p * kVector + j].values[r * 2 + h];
          });
        }
      }
      for_each_pack<kVector, kPacks>(c, site.member, [&](int p, int h, int channel) {
        Pack<F, kVector> pack;
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          float total = totals[p * 2 + h][j];
#pragma unroll
          for (int distance = 4; distance < 32; distance *= 2)
            total += __shfl_xor_sync(~0u, total, distance);
          pack.values[j] = F(total);
        }
        if (site.group == 0) store_pack(args.out + at.site * args.channels + channel, pack);
      });
    }
  }
}

// Grid: (partials, blocks of channels in all num_groups, tiles of kernel points). Every warp keeps
// its sums in registers; the block adds those of its warps and writes them to `partial`.
template <typename Sampler, typename F, int kVector, int kPacks>
__global__ void __launch_bounds__(kThreads, 4)
    tensor_depthwise_weight_kernel(const EngineArguments<Sampler, F> args) {
  KPDEFORM_SHARED(shared);
  constexpr int kBlock = 8 * kVector * kPacks, kSums = kVector * kPacks;
  const int num_kernel_points = args.sampler.num_kernel_points;
  TensorSite<Sampler, F> site(args.sampler, args.stage, false, shared);
  const int c = int(blockIdx.y) * kBlock, group = c / (args.channels / args.num_groups);
  MmaSums totals[kSums];
  for (int64_t i = first_virtual_site<32>(); i < args.sites; i += virtual_site_stride<32>()) {
    site.open(i, group);
    site.select(int(blockIdx.z));
    MmaSums sums[kSums];
    site.template add_rows<kVector, kPacks>(args.features, args.channels, c, sums);
    float factors[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) factors[r] = site.exists(r) ? site.factor(r) : 0.0f;
    for_each_pack<kVector, kPacks>(c, site.member, [&](int p, int h, int channel) {
      const auto g = load_pack<kVector>(args.grad + i * args.channels + channel);
#pragma unroll
      for (int j = 0; j < kVector; ++j)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          totals[p * kVector + j].values[r * 2 + h] +=
              factors[r] * float(g.values[j]) * sums[p * kVector + j].values[r * 2 + h];
    });
  }
  __syncthreads();  // the shared memory of the sources becomes that of the sums
  float* const of_warps = reinterpret_cast<float*>(shared);  // (warps, kTile, kBlock)
  constexpr int kSize = kTile * kBlock;
  for_each_pack<kVector, kPacks>(0, site.member, [&](int p, int h, int channel) {
#pragma unroll
    for (int j = 0; j < kVector; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        of_warps[threadIdx.x / 32 * kSize + (site.group + 8 * r) * kBlock + channel + j] =
            totals[p * kVector + j].values[r * 2 + h];
  });
  __syncthreads();
  const int first = int(blockIdx.z) * kTile;
  for (int i = threadIdx.x; i < kSize; i += kThreads) {
    const int k = first + i / kBlock;
    if (k >= num_kernel_points) continue;
    float total = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) total += of_warps[warp * kSize + i];
    args.partial[(int64_t(blockIdx.x) * num_kernel_points + k) * args.channels + c + i % kBlock] =
        total;
  }
}

// kVector channels from c on of the gradient of S of kernel point k.
template <int kVector, bool kDepthwise, typename Sampler, typename F>
__device__ Words<F, kVector> upstream_words(const EngineArguments<Sampler, F>& args,
                                            const VirtualSite& at, int k, int c) {
  if constexpr (kDepthwise) {
    const auto w = load_pack<kVector>(args.weight + int64_t(k) * args.channels + c);
    const auto g = load_pack<kVector>(args.grad + at.site * args.channels + c);
    Pack<F, kVector> products;
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      products.values[v] = F(float(w.values[v]) * float(g.values[v]));
    return bits_as<Words<F, kVector>>(products);
  } else {
    const int64_t site = at.row * args.sampler.num_kernel_points * args.channels;
    return load_words<kVector>(
        args.grad_sampled + site +
        place_in_row(c, k, args.sampler.num_kernel_points, args.group_channels));
  }
}

// The gradients of offsets and modulations. A product D (16 kernel points, 8 sources) holds the dot
// products, over channels, of the gradient of S[k] and the row of each source. The gradient of a
// modulation is the sum over sources of coefficient * D; that of an offset takes the derivative of
// the coefficient instead. kPart products (8 * kPart sources) share one loop over channels. The
// gradient of S is weight * grad, element by element, if kDepthwise; otherwise it is read from
// grad_sampled.
template <typename Sampler, typename F, int kVector, bool kDepthwise>
__global__ void __launch_bounds__(kThreads, 4)
    tensor_site_gradients_kernel(const EngineArguments<Sampler, F> args) {
  using Multiplier = Mma<F>;
  constexpr int kPart = 4;  // products of 8 sources each
  constexpr int kDims = Sampler::kDims;
  KPDEFORM_SHARED(shared);
  const Sampler& sampler = args.sampler;
  const int num_kernel_points = sampler.num_kernel_points;
  TensorSite<Sampler, F> site(sampler, args.stage, false, shared);
  for (int64_t i = first_virtual_site<32>(); i < args.sites; i += virtual_site_stride<32>()) {
    const VirtualSite at = virtual_site(args, i);
    site.open(at.site, at.group);
    for (int tile = 0; tile * kTile < num_kernel_points; ++tile) {
      site.select(tile);
      float by_modulation[2] = {}, by_offset[2][kDims] = {};
      for (int64_t from = 0; from < site.num_sources(); from += args.stage) {
        const int count = site.stage(from);
        for (int first = 0; first < count; first += 8 * kPart) {
          MmaSums dots[kPart];
          for (int c = at.begin + site.member * kVector; c < at.end; c += 4 * kVector) {
            Words<F, kVector> upstream[2] = {};
#pragma unroll
            for (int r = 0; r < 2; ++r)
              if (site.exists(r))
                upstream[r] =
                    upstream_words<kVector, kDepthwise>(args, at, site.kernel_point(r), c);
#pragma unroll
            for (int part = 0; part < kPart; ++part) {
              if (first + part * 8 >= count) continue;  // the same for all lanes
              const uint32_t row = site.source(first + part * 8 + site.group).row;
              const auto x = load_row<kVector>(args.features + c, row, args.channels);
#pragma unroll
              for (int i = 0; i < x.kSize; i += 2) {
                const MmaA a{{upstream[0].values[i], upstream[1].values[i],
                              upstream[0].values[i + 1], upstream[1].values[i + 1]}};
                const uint32_t b[2] = {x.values[i], x.values[i + 1]};
                Multiplier::multiply(dots[part], a, b);
              }
            }
          }
#pragma unroll
          for (int part = 0; part < kPart; ++part) {
            if (first + part * 8 >= count) continue;
            const int source = first + part * 8 + 2 * site.member;  // beyond `count` they are empty
            site.for_each_coefficient(source,
                                      [&](int h, int r, float value, const float* derivative) {
                                        const float dot = dots[part].values[r * 2 + h];
                                        by_modulation[r] += value * dot;
#pragma unroll
                                        for (int d = 0; d < kDims; ++d)
                                          by_offset[r][d] += derivative[d] * dot;
                                      });
          }
        }
      }
      write_site_gradients(args, site, at, by_modulation, by_offset);
    }
  }
}

// Adds the sums of the four lanes of each kernel point and writes them.
template <typename Sampler, typename F, int kDims>
__device__ void write_site_gradients(const EngineArguments<Sampler, F>& args,
                                     const TensorSite<Sampler, F>& site, const VirtualSite& at,
                                     const float (&by_modulation)[2],
                                     const float (&by_offset)[2][kDims]) {
  const Sampler& sampler = args.sampler;
  const auto sum = [](float value) {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
  };
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int k = site.kernel_point(r);
    const float of_modulation = sum(by_modulation[r]);
    float of_offset[kDims];
#pragma unroll
    for (int d = 0; d < kDims; ++d) of_offset[d] = sum(by_offset[r][d]);
    if (!site.exists(r) || site.member != 0) continue;
    if (args.grad_modulations != nullptr)
      args.grad_modulations[sampler.modulation_place(at.site, k, at.group, args.num_groups)] =
          of_modulation;
    if (args.grad_offsets == nullptr) continue;
    const float factor = site.factor(r);
    const int64_t place = (at.site * args.num_groups + at.group) * sampler.num_kernel_points + k;
#pragma unroll
    for (int d = 0; d < kDims; ++d)
      if (d < sampler.dim) args.grad_offsets[place * sampler.dim + d] = factor * of_offset[d];
  }
}

}  // namespace kpdeform
