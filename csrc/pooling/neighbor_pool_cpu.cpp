// neighbor_pool and its gradient on the CPU. Contract: neighbor_pool.h.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/common.h"
#include "base/parallel.h"
#include "base/tensors.h"
#include "pooling/neighbor_pool.h"

namespace kpdeform {
namespace {

template <typename F>
using Sum = std::conditional_t<std::is_same_v<F, double>, double, float>;

// Calls body with a value of the element type: float, double, Half or BFloat16.
template <typename Body>
void dispatch_features(const Tensor& features, const Body& body) {
  switch (features.scalar_type()) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
    default:
      fail_check("features must be float32, float64, float16 or bfloat16");
  }
}

template <typename Body>
void with_index(const Tensor& neighbors, const Body& body) {
  switch (neighbors.scalar_type()) {
    case ScalarType::Int:
      return body(int32_t{});
    case ScalarType::Long:
      return body(int64_t{});
    default:
      fail_check("neighbors must be int32 or int64");
  }
}

// A neighbour table whose indices have all been checked.
template <typename Index>
struct Table {
  const Index* slots;
  int64_t rows, width, num_points;
  // The row of features that a slot holds, or -1 if it is empty.
  int64_t at(int64_t m, int64_t h) const {
    const int64_t n = slots[m * width + h];
    return n < num_points ? n : -1;
  }
};

template <typename Index>
Table<Index> checked_table(const Tensor& neighbors, int64_t num_points) {
  KPDEFORM_CHECK(neighbors.is_cpu() && neighbors.dim() == 2 && neighbors.is_contiguous(),
                 "neighbors must be contiguous (M, H) on the CPU");
  const Table<Index> table{neighbors.const_data_ptr<Index>(), neighbors.size(0), neighbors.size(1),
                           num_points};
  std::atomic<int64_t> bad{-1};
  parallel_chunks(neighbors.numel(), 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (table.slots[i] < -1 || table.slots[i] > num_points) bad = i;
  });
  if (bad >= 0)
    fail_check("neighbors[", bad / table.width, ", ", bad % table.width, "] is ", table.slots[bad],
               ", but features has ", num_points, " rows; valid are 0 to ", num_points,
               " (the last one and -1 are empty slots)");
  return table;
}

// max_of_rows in portable code, for float64.
void max_of(const double* features, const int64_t* rows, const int32_t* slots, int64_t count,
            int64_t channels, double* best, int32_t* slot) {
  std::copy_n(features + rows[0] * channels, channels, best);
  std::fill_n(slot, channels, slots[0]);
  for (int64_t i = 1; i < count; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      const double value = features[rows[i] * channels + c];
      const bool larger = (value > best[c]) | (value != value);  // NaN wins
      best[c] = larger ? value : best[c];
      slot[c] = larger ? slots[i] : slot[c];
    }
  }
}

// The type by which vector kernels know the elements of F.
template <typename F>
struct ElementOf {
  using type = F;
};
template <>
struct ElementOf<torch::headeronly::Half> {
  using type = Half;
};
template <>
struct ElementOf<torch::headeronly::BFloat16> {
  using type = BFloat16;
};

template <typename F>
void max_of(const F* features, const int64_t* rows, const int32_t* slots, int64_t count,
            int64_t channels, float* best, int32_t* slot) {
  const auto* elements = reinterpret_cast<const typename ElementOf<F>::type*>(features);
  KPDEFORM_DISPATCH(max_of_rows, elements, rows, slots, count, channels, best, slot);
}

template <typename F, typename Index>
void pool_max(const F* features, const Table<Index>& table, int64_t channels, bool shadow_zero,
              F* pooled, int16_t* argmax) {
  parallel_chunks(table.rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<Sum<F>> best(channels);
    std::vector<int32_t> slot(channels), slots(table.width);
    std::vector<int64_t> rows(table.width);
    for (int64_t m = begin; m < end; ++m) {
      int64_t count = 0;
      for (int64_t h = 0; h < table.width; ++h) {
        const int64_t n = table.at(m, h);
        if (n < 0) continue;
        rows[count] = n;
        slots[count++] = static_cast<int32_t>(h);
      }
      if (count > 0)
        max_of(features, rows.data(), slots.data(), count, channels, best.data(), slot.data());
      const bool shadow = shadow_zero && count < table.width;
      for (int64_t c = 0; c < channels; ++c) {
        const bool none = count == 0 || (shadow && best[c] < 0);
        pooled[m * channels + c] = none ? F(0) : static_cast<F>(best[c]);
        argmax[m * channels + c] = none ? int16_t{-1} : static_cast<int16_t>(slot[c]);
      }
    }
  });
}

template <typename F, typename Index>
void pool_nearest(const F* features, const Table<Index>& table, int64_t channels, F* pooled) {
  parallel_chunks(table.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      int64_t h = 0;
      while (h < table.width && table.at(m, h) < 0) ++h;
      F* y = pooled + m * channels;
      if (h < table.width)
        std::copy_n(features + table.at(m, h) * channels, channels, y);
      else
        std::fill_n(y, channels, F(0));
    }
  });
}

template <typename F, typename Index>
void pool_mean(const F* features, const Table<Index>& table, int64_t channels, F* pooled) {
  parallel_chunks(table.rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<Sum<F>> sum(channels);
    for (int64_t m = begin; m < end; ++m) {
      std::fill(sum.begin(), sum.end(), Sum<F>(0));
      int64_t count = 0;
      for (int64_t h = 0; h < table.width; ++h) {
        const int64_t n = table.at(m, h);
        if (n < 0) continue;
        ++count;
        for (int64_t c = 0; c < channels; ++c)
          sum[c] += static_cast<Sum<F>>(features[n * channels + c]);
      }
      const Sum<F> divisor = static_cast<Sum<F>>(std::max<int64_t>(count, 1));
      for (int64_t c = 0; c < channels; ++c)
        pooled[m * channels + c] = static_cast<F>(sum[c] / divisor);
    }
  });
}

void check_reduce(int64_t reduce) {
  KPDEFORM_CHECK(kMax <= reduce && reduce <= kNearest, "reduce must be 0, 1 or 2, got ", reduce);
}

std::tuple<Tensor, Tensor> neighbor_pool(Tensor features, Tensor neighbors, int64_t reduce,
                                         bool shadow_zero) {
  check_reduce(reduce);
  KPDEFORM_CHECK(features.is_cpu() && features.dim() == 2 && features.is_contiguous(),
                 "features must be contiguous (N, C) on the CPU");
  KPDEFORM_CHECK(neighbors.dim() == 2 && neighbors.size(1) <= std::numeric_limits<int16_t>::max(),
                 "neighbors must be (M, H) with at most 32767 slots");
  const int64_t rows = neighbors.size(0), channels = features.size(1);
  Tensor pooled = torch::stable::new_empty(features, {rows, channels});
  Tensor argmax =
      torch::stable::new_empty(features, {reduce == kMax ? rows : 0, channels}, ScalarType::Short);
  dispatch_features(features, [&](auto f) {
    with_index(neighbors, [&](auto index) {
      using F = decltype(f);
      const auto table = checked_table<decltype(index)>(neighbors, features.size(0));
      const F* in = static_cast<const F*>(features.const_data_ptr());
      F* out = static_cast<F*>(pooled.mutable_data_ptr());
      if (reduce == kMax)
        pool_max(in, table, channels, shadow_zero, out, argmax.mutable_data_ptr<int16_t>());
      else if (reduce == kMean)
        pool_mean(in, table, channels, out);
      else
        pool_nearest(in, table, channels, out);
    });
  });
  return {pooled, argmax};
}

// Adds the gradient of every output row to the gradients of the points that were pooled into it.
// Each task owns a range of points and a range of channels, so no two tasks write to the same
// element, and goes through all rows of the neighbour table in order.
template <typename F, typename Index>
class Backward {
 public:
  Backward(const F* grad, const Table<Index>& table, const int16_t* argmax, int64_t channels,
           int64_t reduce, Sum<F>* result)
      : grad_(grad),
        table_(table),
        argmax_(argmax),
        channels_(channels),
        reduce_(reduce),
        result_(result) {}

  void run() const {
    constexpr int64_t kChannels = 16;  // fewest channels per task: at least one cache line
    constexpr int64_t kElementsPerStep = 8 << 20;
    const int64_t threads = num_threads();
    const int64_t blocks = std::max<int64_t>(1, std::min(threads, channels_ / kChannels));
    const int64_t ranges = std::max<int64_t>(1, threads / blocks);
    const int64_t rows = std::max<int64_t>(1, kElementsPerStep / std::max<int64_t>(1, channels_));
    const auto share_of = [&](int64_t task) {
      const int64_t block = task % blocks, range = task / blocks;
      return Share{table_.num_points * range / ranges, table_.num_points * (range + 1) / ranges,
                   channels_ * block / blocks, channels_ * (block + 1) / blocks};
    };
    parallel_steps(
        1 + num_pieces(table_.rows, rows), threads, [&](int64_t) { return blocks * ranges; },
        [&](int64_t step, int64_t task) {
          if (step == 0) return clear(share_of(task));
          add(share_of(task), (step - 1) * rows, std::min(step * rows, table_.rows));
        });
  }

 private:
  struct Share {
    int64_t point_begin, point_end, channel_begin, channel_end;
    bool owns(int64_t n) const { return n >= point_begin && n < point_end; }
  };

  void clear(const Share& share) const {
    for (int64_t n = share.point_begin; n < share.point_end; ++n)
      std::fill(result_ + n * channels_ + share.channel_begin,
                result_ + n * channels_ + share.channel_end, Sum<F>(0));
  }

  void add(const Share& share, int64_t begin, int64_t end) const {
    for (int64_t m = begin; m < end; ++m) reduce_ == kMax ? add_max(share, m) : add_mean(share, m);
  }

  void add_max(const Share& share, int64_t m) const {
    for (int64_t c = share.channel_begin; c < share.channel_end; ++c) {
      const int16_t slot = argmax_[m * channels_ + c];
      if (slot < 0) continue;
      const int64_t n = table_.at(m, slot);
      if (share.owns(n))
        result_[n * channels_ + c] += static_cast<Sum<F>>(grad_[m * channels_ + c]);
    }
  }

  void add_mean(const Share& share, int64_t m) const {
    int64_t count = 0;
    for (int64_t h = 0; h < table_.width; ++h) count += table_.at(m, h) >= 0;
    if (reduce_ == kNearest) count = std::min<int64_t>(count, 1);
    const Sum<F> share_of_each = Sum<F>(1) / static_cast<Sum<F>>(std::max<int64_t>(count, 1));
    for (int64_t h = 0; count > 0; ++h) {
      const int64_t n = table_.at(m, h);
      if (n < 0) continue;
      --count;
      if (!share.owns(n)) continue;
      for (int64_t c = share.channel_begin; c < share.channel_end; ++c)
        result_[n * channels_ + c] += static_cast<Sum<F>>(grad_[m * channels_ + c]) * share_of_each;
    }
  }

  const F* grad_;
  const Table<Index>& table_;
  const int16_t* argmax_;
  const int64_t channels_, reduce_;
  Sum<F>* result_;
};

Tensor neighbor_pool_backward(Tensor grad, Tensor neighbors, Tensor argmax, int64_t num_points,
                              int64_t reduce, MaybeTensor, MaybeTensor) {
  check_reduce(reduce);
  KPDEFORM_CHECK(neighbors.dim() == 2, "neighbors must be (M, H)");
  KPDEFORM_CHECK(
      grad.is_cpu() && grad.dim() == 2 && grad.is_contiguous() && grad.size(0) == neighbors.size(0),
      "grad must be contiguous (M, C) on the CPU");
  KPDEFORM_CHECK(num_points >= 0 && num_points <= 4294967295,
                 "num_points must be 0 to 4294967295, got ", num_points);
  const int64_t channels = grad.size(1);
  KPDEFORM_CHECK(
      reduce != kMax || (argmax.is_cpu() && argmax.is_contiguous() && argmax.dim() == 2 &&
                         argmax.size(0) == grad.size(0) && argmax.size(1) == channels &&
                         argmax.scalar_type() == ScalarType::Short),
      "argmax must be the (M, C) one of the forward pass");
  Tensor result = torch::stable::new_empty(grad, {num_points, channels});
  dispatch_features(grad, [&](auto f) {
    with_index(neighbors, [&](auto index) {
      using F = decltype(f);
      const auto table = checked_table<decltype(index)>(neighbors, num_points);
      const int16_t* slots = reduce == kMax ? argmax.const_data_ptr<int16_t>() : nullptr;
      std::atomic<bool> fits{true};
      parallel_chunks(slots ? argmax.numel() : 0, 65536, [&](int64_t begin, int64_t end) {
        int16_t largest = -1;
        for (int64_t i = begin; i < end; ++i) largest = std::max(largest, slots[i]);
        if (largest >= table.width) fits = false;
      });
      KPDEFORM_CHECK(fits, "argmax is not that of these neighbors");
      const F* in = static_cast<const F*>(grad.const_data_ptr());
      if constexpr (std::is_same_v<F, Sum<F>>) {
        Backward<F, decltype(index)>(in, table, slots, channels, reduce,
                                     result.mutable_data_ptr<F>())
            .run();
      } else {
        std::vector<float> sums(num_points * channels);
        Backward<F, decltype(index)>(in, table, slots, channels, reduce, sums.data()).run();
        F* out = static_cast<F*>(result.mutable_data_ptr());
        for (size_t i = 0; i < sums.size(); ++i) out[i] = static_cast<F>(sums[i]);
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("neighbor_pool", TORCH_BOX(&neighbor_pool));
  m.impl("neighbor_pool_backward", TORCH_BOX(&neighbor_pool_backward));
}

}  // namespace kpdeform
