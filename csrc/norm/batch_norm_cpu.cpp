// batch_norm and its gradient on the CPU. Contract: batch_norm.h.
#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "base/dispatch_cpu.h"
#include "base/parallel.h"
#include "norm/batch_norm.h"
#include "norm/batch_norm_check.h"

namespace kpdeform {
namespace {

// Calls body with a value of the tensor's element type, float or double.
template <typename Body>
void with_float(const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    default:
      fail_check("features must be float32 or float64");
  }
}

// Divides the rows of a matrix into blocks that do not depend on the number of threads.
struct Blocks {
  int64_t rows, channels;
  int64_t size() const { return std::max<int64_t>(64, (rows + 1023) / 1024); }
  int64_t count() const { return (rows + size() - 1) / size(); }

  // Calls body(block, first row, number of rows) for every block.
  template <typename Body>
  void each(const Body& body) const {
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size() * channels));
    parallel_chunks(count(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        body(block, block * size(), std::min(size(), rows - block * size()));
    });
  }

  // Returns the total over all blocks of the `columns` sums that body(first row, rows, sums) writes
  // for each.
  template <typename Body>
  std::vector<double> sum(int64_t columns, const Body& body) const {
    std::vector<double> parts(count() * columns);
    each([&](int64_t block, int64_t first, int64_t n) {
      body(first, n, parts.data() + block * columns);
    });
    std::vector<double> sums(columns);
    for (int64_t block = 0; block < count(); ++block)
      for (int64_t c = 0; c < columns; ++c) sums[c] += parts[block * columns + c];
    return sums;
  }
};

// Computes the mean and biased variance over the rows and channels of every group, and stores them
// for each of its channels.
template <typename F, typename T>
void measure(Tensor features, const Blocks& blocks, int64_t groups, const Tensor& mean,
             const Tensor& variance) {
  const int64_t channels = blocks.channels, size = channels / groups;
  const Tensor first_row = torch::stable::narrow(features, 0, 0, 1);
  const Tensor origin_row = compute_copy(first_row, mean.scalar_type());
  const F* x = data<F>(features);
  const T* origin = data<T>(origin_row);
  // Sums deviations from the first row, so that large values do not suffer from cancellation.
  const std::vector<double> sums =
      blocks.sum(2 * channels, [&](int64_t first, int64_t rows, double* part) {
        KPDEFORM_DISPATCH(sum_deviations, x + first * channels, rows, channels, origin, part);
      });
  std::vector<double> means(channels), squares(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double shift = sums[c] / blocks.rows;
    means[c] = origin[c] + shift;
    squares[c] = sums[channels + c] / blocks.rows - shift * shift;
  }
  for (int64_t first = 0; first < channels; first += size) {
    double middle = 0, square = 0;
    for (int64_t c = first; c < first + size; ++c) middle += means[c] / size;
    for (int64_t c = first; c < first + size; ++c)
      square += (squares[c] + (means[c] - middle) * (means[c] - middle)) / size;
    std::fill_n(mutable_data<T>(mean) + first, size, static_cast<T>(middle));
    std::fill_n(mutable_data<T>(variance) + first, size,
                static_cast<T>(square < 0 ? 0.0 : square));  // keeps NaN
  }
}

// 1 / sqrt(variance + eps), per channel.
template <typename F>
std::vector<F> inverse_deviations(const F* variance, int64_t channels, double eps) {
  std::vector<F> result(channels);
  for (int64_t c = 0; c < channels; ++c)
    result[c] = static_cast<F>(1 / std::sqrt(static_cast<double>(variance[c]) + eps));
  return result;
}

bool is_half(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Half || tensor.scalar_type() == ScalarType::BFloat16;
}

// The tensor in float32, in which half precision is computed.
Tensor widened(const Tensor& tensor) {
  return torch::stable::to(tensor, ScalarType::Float);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(Tensor features, Tensor weight, Tensor bias,
                                              MaybeTensor given_mean, MaybeTensor given_variance,
                                              MaybeTensor residual, double eps, double slope,
                                              int64_t groups) {
  check_batch_norm(features, weight, bias, given_mean, given_variance, residual, eps, slope,
                   groups);
  const bool given = given_mean.has_value();
  const Blocks blocks{features.size(0), features.size(1)};
  const int64_t channels = blocks.channels;
  Tensor out = torch::stable::new_empty(features, {blocks.rows, channels});
  Tensor mean = torch::stable::new_empty(weight, {channels});
  Tensor variance = torch::stable::new_empty(weight, {channels});
  dispatch_elements(weight.scalar_type(), features.scalar_type(), [&](auto number, auto element) {
    using T = decltype(number);
    using F = decltype(element);
    const F* x = data<F>(features);
    T *m = mean.mutable_data_ptr<T>(), *v = variance.mutable_data_ptr<T>();
    if (given) {
      std::copy_n(given_mean->const_data_ptr<T>(), channels, m);
      std::copy_n(given_variance->const_data_ptr<T>(), channels, v);
    } else {
      measure<F, T>(features, blocks, groups, mean, variance);
    }
    std::vector<T> scale = inverse_deviations(v, channels, eps);
    for (int64_t c = 0; c < channels; ++c) scale[c] *= weight.const_data_ptr<T>()[c];
    const NormColumns<T> columns{m, scale.data(), bias.const_data_ptr<T>()};
    const F* added = data<F>(residual);
    F* y = mutable_data<F>(out);
    blocks.each([&](int64_t, int64_t first, int64_t rows) {
      const int64_t at = first * channels;
      KPDEFORM_DISPATCH(normalize, x + at, added ? added + at : nullptr, rows, channels, columns,
                        static_cast<T>(slope), y + at);
    });
  });
  return {out, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(
    Tensor grad, Tensor out, Tensor features, Tensor weight, Tensor mean, Tensor variance,
    double eps, double slope, int64_t groups, bool given, bool residual_wanted) {
  check_batch_norm_backward(grad, out, features, weight, mean, variance, eps, slope, groups);
  if (is_half(features)) {
    const ScalarType dtype = features.scalar_type();
    const auto [of_features, of_weight, of_bias, of_residual] =
        batch_norm_backward(widened(grad), widened(out), widened(features), weight, mean, variance,
                            eps, slope, groups, given, residual_wanted);
    return {torch::stable::to(of_features, dtype), of_weight, of_bias,
            torch::stable::to(of_residual, dtype)};
  }
  const Blocks blocks{features.size(0), features.size(1)};
  const int64_t rows = blocks.rows, channels = blocks.channels;
  const bool activated = slope != 1;
  Tensor of_features = torch::stable::new_empty(features, {rows, channels});
  Tensor of_weight = torch::stable::new_empty(features, {channels});
  Tensor of_bias = torch::stable::new_empty(features, {channels});
  Tensor of_residual =
      torch::stable::new_empty(features, {residual_wanted && activated ? rows : 0, channels});
  with_float(features, [&](auto f) {
    using F = decltype(f);
    const F *x = features.const_data_ptr<F>(), *y = out.const_data_ptr<F>();
    const F *m = mean.const_data_ptr<F>(), *w = weight.const_data_ptr<F>();
    F* result = of_features.mutable_data_ptr<F>();
    // The gradient of the activation's input, stored in the memory of one of the results.
    F* inner = residual_wanted ? of_residual.mutable_data_ptr<F>() : result;
    const F* g = activated ? inner : grad.const_data_ptr<F>();
    const std::vector<double> sums =
        blocks.sum(2 * channels, [&](int64_t first, int64_t n, double* part) {
          const int64_t at = first * channels;
          if (activated)
            KPDEFORM_DISPATCH(through_activation, grad.const_data_ptr<F>() + at, y + at,
                              n * channels, static_cast<F>(slope), inner + at);
          KPDEFORM_DISPATCH(sum_gradients, g + at, x + at, n, channels, m, part);
        });
    const std::vector<F> inverse = inverse_deviations(variance.const_data_ptr<F>(), channels, eps);
    std::vector<F> scale(channels), shift(channels), tilt(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double of_normal = sums[channels + c] * inverse[c];
      of_bias.mutable_data_ptr<F>()[c] = static_cast<F>(sums[c]);
      of_weight.mutable_data_ptr<F>()[c] = static_cast<F>(of_normal);
      scale[c] = w[c] * inverse[c];
    }
    const int64_t size = channels / groups;
    for (int64_t first = 0; !given && first < channels; first += size) {  // given: no gradient
      double of_mean = 0, of_deviation = 0;
      for (int64_t c = first; c < first + size; ++c) {
        of_mean += scale[c] * sums[c] / (rows * size);
        const double of_normal = sums[channels + c] * inverse[c];
        of_deviation += scale[c] * inverse[c] * of_normal / (rows * size);
      }
      std::fill_n(shift.data() + first, size, static_cast<F>(-of_mean));
      std::fill_n(tilt.data() + first, size, static_cast<F>(-of_deviation));
    }
    const NormColumns<F> columns{m, scale.data(), shift.data()};
    blocks.each([&](int64_t, int64_t first, int64_t n) {
      const int64_t at = first * channels;
      KPDEFORM_DISPATCH(combine_gradients, g + at, x + at, n, channels, columns, tilt.data(),
                        result + at);
    });
  });
  return {of_features, of_weight, of_bias, of_residual};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("batch_norm", TORCH_BOX(&batch_norm));
  m.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

}  // namespace kpdeform
