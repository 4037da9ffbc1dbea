#include "base/elements.h"
#include "norm/batch_norm.h"

// Loops over a few rows at once, in a form that compilers vectorise. The pointers of a loop never
// overlap, except that a result may replace its own input.
namespace kpdeform::KPDEFORM_ISA {
namespace {

constexpr int64_t kTogether = 4;  // rows whose terms are added before the sum in memory

// Sets sums[c] to the sum of the first term, and sums[C + c] to the sum of the second term, over
// all rows.
template <typename Terms>
inline void add_rows(int64_t rows, int64_t channels, double* sums, const Terms& terms) {
  double* __restrict first = sums;
  double* __restrict second = sums + channels;
  for (int64_t c = 0; c < 2 * channels; ++c) sums[c] = 0;
  int64_t row = 0;
  for (; row + kTogether <= rows; row += kTogether) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      double one[kTogether], two[kTogether];
      for (int64_t i = 0; i < kTogether; ++i) terms((row + i) * channels + c, c, one[i], two[i]);
      first[c] += (one[0] + one[1]) + (one[2] + one[3]);
      second[c] += (two[0] + two[1]) + (two[2] + two[3]);
    }
  }
  for (; row < rows; ++row) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      double one, two;
      terms(row * channels + c, c, one, two);
      first[c] += one;
      second[c] += two;
    }
  }
}

template <typename F, typename T>
void sum_deviations_of(const F* x, int64_t rows, int64_t channels, const T* mean, double* sums) {
  add_rows(rows, channels, sums, [=](int64_t i, int64_t c, double& one, double& two) {
    one = double(to_number(x[i])) - double(mean[c]);
    two = one * one;
  });
}

template <typename F>
void sum_gradients_of(const F* grad, const F* x, int64_t rows, int64_t channels, const F* mean,
                      double* sums) {
  add_rows(rows, channels, sums, [=](int64_t i, int64_t c, double& one, double& two) {
    one = double(grad[i]);
    two = double(grad[i] * (x[i] - mean[c]));
  });
}

template <bool kResidual, typename F, typename T>
void normalize_rows(const F* __restrict x, const F* __restrict residual, int64_t rows,
                    int64_t channels, const NormColumns<T>& columns, T slope, F* __restrict out) {
  const T *__restrict mean = columns.mean, *__restrict scale = columns.scale,
                      *__restrict shift = columns.shift;
  for (int64_t row = 0; row < rows; ++row, x += channels, out += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      T z = scale[c] * (to_number(x[c]) - mean[c]) + shift[c];
      if constexpr (kResidual) z += to_number(residual[c]);
      from_number(z > 0 ? z : slope * z, out[c]);
    }
    if constexpr (kResidual) residual += channels;
  }
}

template <typename F>
void combine(const F* grad, const F* __restrict x, int64_t rows, int64_t channels,
             const NormColumns<F>& columns, const F* __restrict tilt, F* result) {
  const F *__restrict mean = columns.mean, *__restrict scale = columns.scale,
                      *__restrict shift = columns.shift;
  for (int64_t row = 0; row < rows; ++row, x += channels, grad += channels, result += channels) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c)
      result[c] = scale[c] * grad[c] + (tilt[c] * (x[c] - mean[c]) + shift[c]);
  }
}

template <typename F>
void activate_backward(const F* __restrict grad, const F* __restrict out, int64_t count, F slope,
                       F* __restrict result) {
  for (int64_t i = 0; i < count; ++i) result[i] = out[i] > 0 ? grad[i] : slope * grad[i];
}

}  // namespace

#define KPDEFORM_FORWARD(F, T)                                                                   \
  void sum_deviations(const F* x, int64_t rows, int64_t channels, const T* mean, double* sums) { \
    sum_deviations_of(x, rows, channels, mean, sums);                                            \
  }                                                                                              \
  void normalize(const F* x, const F* residual, int64_t rows, int64_t channels,                  \
                 const NormColumns<T>& columns, T slope, F* out) {                               \
    if (residual != nullptr)                                                                     \
      normalize_rows<true>(x, residual, rows, channels, columns, slope, out);                    \
    else                                                                                         \
      normalize_rows<false>(x, residual, rows, channels, columns, slope, out);                   \
  }
#define KPDEFORM_BACKWARD(F)                                                                   \
  void through_activation(const F* grad, const F* out, int64_t count, F slope, F* result) {    \
    activate_backward(grad, out, count, slope, result);                                        \
  }                                                                                            \
  void sum_gradients(const F* grad, const F* x, int64_t rows, int64_t channels, const F* mean, \
                     double* sums) {                                                           \
    sum_gradients_of(grad, x, rows, channels, mean, sums);                                     \
  }                                                                                            \
  void combine_gradients(const F* grad, const F* x, int64_t rows, int64_t channels,            \
                         const NormColumns<F>& columns, const F* tilt, F* result) {            \
    combine(grad, x, rows, channels, columns, tilt, result);                                   \
  }
KPDEFORM_FORWARD(float, float)
KPDEFORM_FORWARD(double, double)
KPDEFORM_FORWARD(Half, float)
KPDEFORM_FORWARD(BFloat16, float)
KPDEFORM_BACKWARD(float)
KPDEFORM_BACKWARD(double)
#undef KPDEFORM_FORWARD
#undef KPDEFORM_BACKWARD

}  // namespace kpdeform::KPDEFORM_ISA
