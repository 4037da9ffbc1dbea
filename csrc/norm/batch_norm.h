// Batch normalisation of rows, fused with the operations that usually follow it: adding a residual
// and LeakyReLU.
//
// Contract (batch_norm; N rows of C channels, float32, float64, float16 or bfloat16; whatever is
// per channel is float64 beside float64 and float32 otherwise)
//   out(n, c)   act(weight[c] (features(n, c) - mean[c]) / sqrt(variance[c] + eps) + bias[c] +
//               residual(n, c)), act(z) = z > 0 ? z : slope z, slope >= 0; residual may be absent
//   statistics  mean and biased variance over the rows of each of G groups of C/G neighbouring
//               channels, N C/G >= 2 values (G = C: batch norm; G < C: group norm over all rows);
//               or the given ones, which are constants in the gradient. Returned in either case,
//               for every channel
//   arithmetic  in the dtype of what is per channel, except sums over rows. These are in float64,
//               block after block over blocks of rows that depend on the tensors' sizes, dtype and
//               alignment alone, which gives the same bits for any number of threads or
//               multiprocessors. On CUDA, up to 16 terms are added in the dtype of what is per
//               channel before they enter a sum in float64. The CPU copies half precision to
//               float32 and rounds the results
//   backward    act'(0) = slope. If slope is 1, `out` is not read and the gradient of the residual
//               is `grad` itself
#pragma once

#include <cstdint>

#include "base/half.h"
#include "base/isa.h"

namespace kpdeform {

// Per-channel mean, scale and shift, each (C,).
template <typename F>
struct NormColumns {
  const F *mean, *scale, *shift;
};

// Computes the sums over rows of x - mean, in sums[0, C), and of its square, in sums[C, 2C).
#define KPDEFORM_DECLARE_SUM_DEVIATIONS(F, T)                                          \
  KPDEFORM_DECLARE_ISA(void sum_deviations(const F* x, int64_t rows, int64_t channels, \
                                           const T* mean, double* sums))
// Computes out = act(scale (x - mean) + shift + residual); `residual` may be null.
#define KPDEFORM_DECLARE_NORMALIZE(F, T)                                                        \
  KPDEFORM_DECLARE_ISA(void normalize(const F* x, const F* residual, int64_t rows,              \
                                      int64_t channels, const NormColumns<T>& columns, T slope, \
                                      F* out))
KPDEFORM_DECLARE_SUM_DEVIATIONS(float, float)
KPDEFORM_DECLARE_SUM_DEVIATIONS(double, double)
KPDEFORM_DECLARE_SUM_DEVIATIONS(Half, float)
KPDEFORM_DECLARE_SUM_DEVIATIONS(BFloat16, float)
KPDEFORM_DECLARE_NORMALIZE(float, float)
KPDEFORM_DECLARE_NORMALIZE(double, double)
KPDEFORM_DECLARE_NORMALIZE(Half, float)
KPDEFORM_DECLARE_NORMALIZE(BFloat16, float)
#undef KPDEFORM_DECLARE_SUM_DEVIATIONS
#undef KPDEFORM_DECLARE_NORMALIZE

// Computes result = act'(out) grad.
KPDEFORM_DECLARE_ISA(void through_activation(const float* grad, const float* out, int64_t count,
                                             float slope, float* result))
KPDEFORM_DECLARE_ISA(void through_activation(const double* grad, const double* out, int64_t count,
                                             double slope, double* result))

// Computes the sums over rows of grad, in sums[0, C), and of grad (x - mean), in sums[C, 2C).
KPDEFORM_DECLARE_ISA(void sum_gradients(const float* grad, const float* x, int64_t rows,
                                        int64_t channels, const float* mean, double* sums))
KPDEFORM_DECLARE_ISA(void sum_gradients(const double* grad, const double* x, int64_t rows,
                                        int64_t channels, const double* mean, double* sums))

// Computes result = scale * grad + tilt * (x - mean) + shift; `result` may be `grad` itself.
KPDEFORM_DECLARE_ISA(void combine_gradients(const float* grad, const float* x, int64_t rows,
                                            int64_t channels, const NormColumns<float>& columns,
                                            const float* tilt, float* result))
KPDEFORM_DECLARE_ISA(void combine_gradients(const double* grad, const double* x, int64_t rows,
                                            int64_t channels, const NormColumns<double>& columns,
                                            const double* tilt, double* result))

}  // namespace kpdeform
