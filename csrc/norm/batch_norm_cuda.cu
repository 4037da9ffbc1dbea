// batch_norm and its gradient on CUDA. Contract: batch_norm.h.
//
// Each way is a reduction over the rows, a small kernel that makes the numbers per channel, and one
// pass that computes the result. In both passes a block owns a tile of rows and of channels; its
// threads access packs of neighbouring channels, 16 bytes at a time where possible. The tiles, and
// so the order of all sums, depend on the tensors' sizes, dtype and alignment alone; there are no
// atomics.
// Bound: memory. Forward: features are read twice (once with given statistics), the residual is read
// once and the result is written once. Backward: features, grad and out are read twice, and the
// gradients are written once.
#include <cmath>
#include <tuple>

#include "base/cuda.h"
#include "base/host_device.h"
#include "norm/batch_norm.h"
#include "norm/batch_norm_check.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;
constexpr int kMostLanes = 32;       // packs of a row that a block reads
constexpr int kTogether = 4;         // rows that a thread loads before it uses the first of them
constexpr int kTerms = 16;           // rows whose terms a thread adds in Sum<F>
constexpr int64_t kMostParts = 512;  // parts into which the rows are divided for sums

// How blocks divide (N, C): a block's threads are `lanes` packs wide, and a tile has `height` rows.
struct Tiles {
  int64_t rows, channels, height, down, across;
  int packs, lanes;

  Tiles(const Tensor& features, int vector)
      : rows(features.size(0)), channels(features.size(1)), packs(int(channels / vector)) {
    lanes = 1;
    while (lanes < kMostLanes && lanes < packs) lanes *= 2;
    across = divide_up(packs, lanes);
    set_height(kTerms);
  }
  // Gives every thread a multiple of kTerms rows of a tile, at least one.
  void set_height(int64_t rows_of_thread) {
    height = kBlock / lanes * std::max<int64_t>(1, divide_up(rows_of_thread, kTerms)) * kTerms;
    down = divide_up(rows, height);
  }
  KPDEFORM_HD int64_t count() const { return down * across; }
};

// A thread's share of a tile: channels from c, and every step-th row of [begin, end).
struct Share {
  int64_t c, begin, end;
  int step;
  bool any;

  __device__ Share(const Tiles& tiles, int64_t tile, int vector) {
    const int64_t at = tile / tiles.across;
    const int64_t pack = (tile - at * tiles.across) * tiles.lanes + threadIdx.x % tiles.lanes;
    step = kBlock / tiles.lanes;
    c = pack * vector;
    begin = at * tiles.height + threadIdx.x / tiles.lanes;
    end = (at + 1) * tiles.height < tiles.rows ? (at + 1) * tiles.height : tiles.rows;
    any = pack < tiles.packs;
  }
};

// ---- sums over rows

// The terms of a thread's rows, added in two sums per channel.
template <int kVector>
struct Sums {
  double first[kVector] = {}, second[kVector] = {};
};

// The sums of x - x(0, c) and of its square. The terms of kTerms rows are taken from their first
// row, and moved to row 0 in float64: this bounds the cancellation for any data.
template <typename F, int kVector>
struct Deviations {
  const F* x;  // (N, C)

  __device__ void add(const Tiles& tiles, const Share& share, Sums<kVector>& sums) const {
    const auto origin = load_pack<kVector>(x + share.c);
    for (int64_t begin = share.begin; begin < share.end; begin += int64_t(kTerms) * share.step) {
      const auto base = load_pack<kVector>(x + begin * tiles.channels + share.c);
      Sum<F> one[kVector] = {}, two[kVector] = {};
      int count = 0;
      for (int i = 0; i < kTerms; i += kTogether) {
        Pack<F, kVector> values[kTogether];
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          const int64_t row = begin + int64_t(i + t) * share.step;
          values[t] =
              row < share.end ? load_pack<kVector>(x + row * tiles.channels + share.c) : base;
          count += row < share.end;
        }
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            const Sum<F> difference = Sum<F>(values[t].values[v]) - Sum<F>(base.values[v]);
            one[v] += difference;
            two[v] += difference * difference;
          }
        }
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const double move = double(Sum<F>(base.values[v])) - double(Sum<F>(origin.values[v]));
        sums.first[v] += double(one[v]) + count * move;
        sums.second[v] += double(two[v]) + move * (2 * double(one[v]) + count * move);
      }
    }
  }
};

// The gradient of the activation's input. If there is no activation, `out` is `grad` and the slope 1.
template <typename F>
__device__ Sum<F> through_activation(F grad, F out, Sum<F> slope) {
  return Sum<F>(out) > 0 ? Sum<F>(grad) : slope * Sum<F>(grad);
}

template <typename F>
struct Gradient {
  const F *grad, *out;  // (N, C)
  Sum<F> slope;
};

// The sums of the gradient of the activation's input, and of its product with x - mean.
template <typename F, int kVector>
struct GradientSums {
  Gradient<F> gradient;
  const F* x;          // (N, C)
  const Sum<F>* mean;  // (C,)

  static constexpr int kAtOnce = kTogether / 2;  // of three tensors

  __device__ void add(const Tiles& tiles, const Share& share, Sums<kVector>& sums) const {
    Sum<F> middle[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) middle[v] = mean[share.c + v];
    for (int64_t begin = share.begin; begin < share.end; begin += int64_t(kTerms) * share.step) {
      Sum<F> one[kVector] = {}, two[kVector] = {};
      for (int i = 0; i < kTerms; i += kAtOnce) {
        Pack<F, kVector> values[kAtOnce], grads[kAtOnce], outs[kAtOnce];
#pragma unroll
        for (int t = 0; t < kAtOnce; ++t) {
          const int64_t row = begin + int64_t(i + t) * share.step;
          const int64_t place = (row < share.end ? row : begin) * tiles.channels + share.c;
          values[t] = load_pack<kVector>(x + place);
          grads[t] = load_pack<kVector>(gradient.grad + place);
          outs[t] = load_pack<kVector>(gradient.out + place);
        }
#pragma unroll
        for (int t = 0; t < kAtOnce; ++t) {
          const bool there = begin + int64_t(i + t) * share.step < share.end;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            const Sum<F> inner =
                there ? through_activation<F>(grads[t].values[v], outs[t].values[v], gradient.slope)
                      : Sum<F>(0);
            one[v] += inner;
            two[v] += inner * (Sum<F>(values[t].values[v]) - middle[v]);
          }
        }
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        sums.first[v] += double(one[v]);
        sums.second[v] += double(two[v]);
      }
    }
  }
};

// Writes the two sums of every tile to parts (2, C, tiles.down).
template <int kVector, typename Terms>
__global__ void __launch_bounds__(kBlock)
    sum_kernel(const Tiles tiles, const Terms terms, double* parts) {
  KPDEFORM_SHARED(memory);
  double* const shared = reinterpret_cast<double*>(memory);  // (2, kVector, kBlock)
  for (int64_t tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
    const Share share(tiles, tile, kVector);
    Sums<kVector> sums;
    if (share.any) terms.add(tiles, share, sums);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      shared[v * kBlock + threadIdx.x] = sums.first[v];
      shared[(kVector + v) * kBlock + threadIdx.x] = sums.second[v];
    }
    for (int half = kBlock / 2; half >= tiles.lanes; half /= 2) {
      __syncthreads();
      if (int(threadIdx.x) >= half) continue;
#pragma unroll
      for (int i = 0; i < 2 * kVector; ++i)
        shared[i * kBlock + threadIdx.x] += shared[i * kBlock + threadIdx.x + half];
    }
    if (int(threadIdx.x) < tiles.lanes && share.any) {
#pragma unroll
      for (int i = 0; i < 2 * kVector; ++i) {
        const int64_t row = i / kVector * tiles.channels + share.c + i % kVector;
        parts[row * tiles.down + tile / tiles.across] = shared[i * kBlock + threadIdx.x];
      }
    }
    __syncthreads();
  }
}

// ---- numbers per channel

// Calls each(c, first sum, second sum) in all lanes of a warp for the channels that it owns.
template <typename Each>
__device__ void for_each_channel(const double* parts, int64_t down, int64_t channels, int64_t begin,
                                 int64_t end, const Each& each) {
  const LaneGroup<32> warp;
  for (int64_t c = begin + threadIdx.x / 32; c < end; c += blockDim.x / 32) {
    double first = 0, second = 0;
    for (int64_t i = warp.lane; i < down; i += 32) {
      first += parts[c * down + i];
      second += parts[(channels + c) * down + i];
    }
    each(c, warp.sum(first), warp.sum(second));
  }
}

template <typename S>
__device__ S inverse_deviation(S variance, double eps) {
  return S(1 / sqrt(double(variance) + eps));
}

// One block per group: the statistics, unless they are given, and the scale.
template <typename F>
__global__ void statistics_kernel(const double* parts, int64_t down, int64_t rows, int64_t channels,
                                  int64_t groups, const F* x, const Sum<F>* weight,
                                  const Sum<F>* given_mean, const Sum<F>* given_variance,
                                  double eps, Sum<F>* mean, Sum<F>* variance, Sum<F>* scale) {
  const int64_t size = channels / groups;
  const double count = double(rows) * double(size);
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t begin = group * size, end = begin + size;
    double middle = 0, square = 0;
    if (given_mean == nullptr) {
      const double origin = double(Sum<F>(x[begin]));
      double first = 0, second = 0;  // sums of x - origin and of its square
      for_each_channel(parts, down, channels, begin, end, [&](int64_t c, double one, double two) {
        const double move = double(Sum<F>(x[c])) - origin;
        first += one + double(rows) * move;
        second += two + move * (2 * one + double(rows) * move);
      });
      const double shift = sum_of_warps(first) / count;
      middle = origin + shift;
      square = sum_of_warps(second) / count - shift * shift;
    }
    for (int64_t c = begin + threadIdx.x; c < end; c += blockDim.x) {
      mean[c] = given_mean != nullptr ? given_mean[c] : Sum<F>(middle);
      variance[c] = given_mean != nullptr ? given_variance[c]
                                          : Sum<F>(square < 0 ? 0.0 : square);  // keeps NaN
      scale[c] = inverse_deviation(variance[c], eps) * weight[c];
    }
  }
}

// The gradient of features is scale * g + tilt * (x - mean) + shift, where g is the gradient of the
// activation's input. The three columns are (C,) each.
template <typename S>
struct GradientColumns {
  S *scale, *shift, *tilt;
};

// One block per group: the gradients of weight and bias, and the columns.
template <typename S>
__global__ void gradients_kernel(const double* parts, int64_t down, int64_t rows, int64_t channels,
                                 int64_t groups, const S* weight, const S* variance, double eps,
                                 bool given, S* of_weight, S* of_bias, GradientColumns<S> columns) {
  const int64_t size = channels / groups;
  const double count = double(rows) * double(size);
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t begin = group * size, end = begin + size;
    double of_mean = 0, of_deviation = 0;
    for_each_channel(parts, down, channels, begin, end, [&](int64_t c, double one, double two) {
      const S inverse = inverse_deviation(variance[c], eps), scale = weight[c] * inverse;
      const double of_normal = two * double(inverse);
      of_mean += double(scale) * one;
      of_deviation += double(scale) * double(inverse) * of_normal;
      if (threadIdx.x % 32 != 0) return;
      of_bias[c] = S(one);
      of_weight[c] = S(of_normal);
      columns.scale[c] = scale;
    });
    // Given statistics are constants.
    const S shift = given ? S(0) : S(-sum_of_warps(of_mean) / count);
    const S tilt = given ? S(0) : S(-sum_of_warps(of_deviation) / count);
    for (int64_t c = begin + threadIdx.x; c < end; c += blockDim.x) {
      columns.shift[c] = shift;
      columns.tilt[c] = tilt;
    }
  }
}

// ---- results

template <typename F>
struct Normalization {
  const F *x, *residual;              // (N, C); no residual: null
  const Sum<F>*mean, *scale, *shift;  // (C,)
  Sum<F> slope;
  F* out;
};

template <typename F, int kVector>
__global__ void __launch_bounds__(kBlock)
    normalize_kernel(const Tiles tiles, const Normalization<F> norm) {
  for (int64_t tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
    const Share share(tiles, tile, kVector);
    if (!share.any) continue;
    Sum<F> mean[kVector], scale[kVector], shift[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      mean[v] = norm.mean[share.c + v];
      scale[v] = norm.scale[share.c + v];
      shift[v] = norm.shift[share.c + v];
    }
#pragma unroll 4
    for (int64_t row = share.begin; row < share.end; row += share.step) {
      const int64_t place = row * tiles.channels + share.c;
      const auto x = load_pack<kVector>(norm.x + place);
      Pack<F, kVector> added{}, out;
      if (norm.residual != nullptr) added = load_pack<kVector>(norm.residual + place);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        Sum<F> z = scale[v] * (Sum<F>(x.values[v]) - mean[v]) + shift[v];
        if (norm.residual != nullptr) z += Sum<F>(added.values[v]);
        out.values[v] = F(z > 0 ? z : norm.slope * z);
      }
      store_pack(norm.out + place, out);
    }
  }
}

template <typename F>
struct FeatureGradient {
  Gradient<F> gradient;
  const F* x;          // (N, C)
  const Sum<F>* mean;  // (C,)
  GradientColumns<Sum<F>> columns;
  F *of_features, *of_residual;  // (N, C); not wanted: null
};

template <typename F, int kVector>
__global__ void __launch_bounds__(kBlock)
    combine_kernel(const Tiles tiles, const FeatureGradient<F> in) {
  for (int64_t tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
    const Share share(tiles, tile, kVector);
    if (!share.any) continue;
    Sum<F> mean[kVector], scale[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      mean[v] = in.mean[share.c + v];
      scale[v] = in.columns.scale[share.c + v];
    }
    Sum<F> shift[kVector], tilt[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      shift[v] = in.columns.shift[share.c + v];
      tilt[v] = in.columns.tilt[share.c + v];
    }
#pragma unroll 2
    for (int64_t row = share.begin; row < share.end; row += share.step) {
      const int64_t place = row * tiles.channels + share.c;
      const auto x = load_pack<kVector>(in.x + place);
      const auto grad = load_pack<kVector>(in.gradient.grad + place);
      const auto out = load_pack<kVector>(in.gradient.out + place);
      Pack<F, kVector> result, of_residual;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Sum<F> inner =
            through_activation<F>(grad.values[v], out.values[v], in.gradient.slope);
        result.values[v] =
            F(scale[v] * inner + (tilt[v] * (Sum<F>(x.values[v]) - mean[v]) + shift[v]));
        of_residual.values[v] = F(inner);
      }
      store_pack(in.of_features + place, result);
      if (in.of_residual != nullptr) store_pack(in.of_residual + place, of_residual);
    }
  }
}

// ---- launches

// The tiles of a reduction: at most kMostParts of them below each other.
Tiles tiles_of_sums(const Tensor& features, int vector) {
  Tiles tiles(features, vector);
  tiles.set_height(divide_up(tiles.rows, kMostParts * (kBlock / tiles.lanes)));
  return tiles;
}

template <int kVector, typename Terms>
void launch_sums(const OnDevice& device, const Tiles& tiles, const Terms& terms,
                 const Tensor& parts) {
  device.launch(sum_kernel<kVector, Terms>, OnDevice::Grid{tiles.count()}, kBlock,
                int64_t(2 * kVector * kBlock * sizeof(double)), tiles, terms,
                mutable_data<double>(parts));
}

// The threads that make the numbers of a group: a warp for each channel, as far as a block goes.
int threads_of_group(int64_t channels, int64_t groups) {
  return 32 * int(std::min<int64_t>(channels / groups, kBlock / 32));
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& features, const Tensor& weight,
                                              const Tensor& bias, MaybeTensor given_mean,
                                              MaybeTensor given_variance, MaybeTensor residual,
                                              double eps, double slope, int64_t groups) {
  check_batch_norm(features, weight, bias, given_mean, given_variance, residual, eps, slope,
                   groups);
  const OnDevice device(features);
  const int64_t rows = features.size(0), channels = features.size(1);
  const Tensor out = torch::stable::new_empty(features, {rows, channels});
  const Tensor mean = torch::stable::new_empty(weight, {channels});
  const Tensor variance = torch::stable::new_empty(weight, {channels});
  if (channels == 0) return {out, mean, variance};
  const Tensor scale = torch::stable::new_empty(weight, {channels});
  with_packs({features, residual, out}, [&](auto f, auto vector) {
    using F = decltype(f);
    const Tiles parts_of = tiles_of_sums(features, vector());
    const int64_t down = given_mean.has_value() ? 0 : parts_of.down;
    const Tensor parts =
        torch::stable::new_empty(features, {2, channels, down}, ScalarType::Double);
    if (down > 0)
      launch_sums<vector()>(device, parts_of, Deviations<F, vector()>{data<F>(features)}, parts);
    device.launch(statistics_kernel<F>, OnDevice::Grid{groups}, threads_of_group(channels, groups),
                  kSharedOfWarps, data<double>(parts), down, rows, channels, groups,
                  data<F>(features), data<Sum<F>>(weight), data<Sum<F>>(given_mean),
                  data<Sum<F>>(given_variance), eps, mutable_data<Sum<F>>(mean),
                  mutable_data<Sum<F>>(variance), mutable_data<Sum<F>>(scale));
    const Tiles tiles(features, vector());
    device.launch(normalize_kernel<F, vector()>, tiles.count(), kBlock, tiles,
                  Normalization<F>{data<F>(features), data<F>(residual), data<Sum<F>>(mean),
                                   data<Sum<F>>(scale), data<Sum<F>>(bias), Sum<F>(slope),
                                   mutable_data<F>(out)});
  });
  return {out, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(
    const Tensor& grad, const Tensor& out, const Tensor& features, const Tensor& weight,
    const Tensor& mean, const Tensor& variance, double eps, double slope, int64_t groups,
    bool given, bool residual_wanted) {
  check_batch_norm_backward(grad, out, features, weight, mean, variance, eps, slope, groups);
  const OnDevice device(features);
  const int64_t rows = features.size(0), channels = features.size(1);
  const bool activated = slope != 1, residual_made = residual_wanted && activated;
  const Tensor of_features = torch::stable::new_empty(features, {rows, channels});
  const Tensor of_weight = torch::stable::new_empty(weight, {channels});
  const Tensor of_bias = torch::stable::new_empty(weight, {channels});
  const Tensor of_residual =
      torch::stable::new_empty(features, {residual_made ? rows : 0, channels});
  if (channels == 0) return {of_features, of_weight, of_bias, of_residual};
  const Tensor columns = torch::stable::new_empty(weight, {3, channels});
  with_packs(
      {features, grad, activated ? out : grad, of_features, of_residual}, [&](auto f, auto vector) {
        using F = decltype(f);
        using S = Sum<F>;
        const Gradient<F> gradient{data<F>(grad), data<F>(activated ? out : grad), S(slope)};
        const Tiles parts_of = tiles_of_sums(features, vector());
        const Tensor parts =
            torch::stable::new_empty(features, {2, channels, parts_of.down}, ScalarType::Double);
        launch_sums<vector()>(device, parts_of,
                              GradientSums<F, vector()>{gradient, data<F>(features), data<S>(mean)},
                              parts);
        S* const first = mutable_data<S>(columns);
        const GradientColumns<S> made{first, first + channels, first + 2 * channels};
        device.launch(gradients_kernel<S>, OnDevice::Grid{groups},
                      threads_of_group(channels, groups), kSharedOfWarps, data<double>(parts),
                      parts_of.down, rows, channels, groups, data<S>(weight), data<S>(variance),
                      eps, given, mutable_data<S>(of_weight), mutable_data<S>(of_bias), made);
        const Tiles tiles(features, vector());
        device.launch(combine_kernel<F, vector()>, tiles.count(), kBlock, tiles,
                      FeatureGradient<F>{gradient, data<F>(features), data<S>(mean), made,
                                         mutable_data<F>(of_features),
                                         residual_made ? mutable_data<F>(of_residual) : nullptr});
      });
  return {of_features, of_weight, of_bias, of_residual};
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("batch_norm", TORCH_BOX(&batch_norm));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

}  // namespace kpdeform
