// Batch normalisation of rows, with what usually follows it: adding a residual and LeakyReLU.
//
// Contract (batch_norm; N rows of C channels, float32 or float64)
//   out(n, c)   act(weight[c] (features(n, c) - mean[c]) / sqrt(variance[c] + eps) + bias[c] +
//               residual(n, c)), act(z) = z > 0 ? z : slope z, slope >= 0; residual may be absent
//   statistics  mean and biased variance over the rows of each of G groups of C/G neighbouring
//               channels, N C/G >= 2 values (G = C: batch norm; G < C: group norm over all rows);
//               or those that are given, which count as constants in the gradient. Returned in
//               either case, for every channel
//   arithmetic  sums are in float64, over blocks of rows that depend on N alone, block after block:
//               the same bits for any number of threads. Everything else is in the features' dtype
//   backward    of act'(0) = slope; where slope is 1, `out` is not read and the gradient of the
//               residual is `grad` itself
#pragma once

#include <cstdint>

#include "base/isa.h"

namespace kpdeform {

// Per-channel scale and shift, each (C,).
template <typename F>
struct NormColumns {
  const F *mean, *scale, *shift;
};

// Sums over rows of x - mean and of its square: sums[0, C) and sums[C, 2C).
KPDEFORM_DECLARE_ISA(void sum_deviations(const float* x, int64_t rows, int64_t channels,
                                         const float* mean, double* sums))
KPDEFORM_DECLARE_ISA(void sum_deviations(const double* x, int64_t rows, int64_t channels,
                                         const double* mean, double* sums))

// out = act(scale (x - mean) + shift + residual), residual or null.
KPDEFORM_DECLARE_ISA(void normalize(const float* x, const float* residual, int64_t rows,
                                    int64_t channels, const NormColumns<float>& columns,
                                    float slope, float* out))
KPDEFORM_DECLARE_ISA(void normalize(const double* x, const double* residual, int64_t rows,
                                    int64_t channels, const NormColumns<double>& columns,
                                    double slope, double* out))

// result = act'(out) grad.
KPDEFORM_DECLARE_ISA(void through_activation(const float* grad, const float* out, int64_t count,
                                             float slope, float* result))
KPDEFORM_DECLARE_ISA(void through_activation(const double* grad, const double* out, int64_t count,
                                             double slope, double* result))

// Sums over rows of grad and of grad (x - mean): sums[0, C) and sums[C, 2C).
KPDEFORM_DECLARE_ISA(void sum_gradients(const float* grad, const float* x, int64_t rows,
                                        int64_t channels, const float* mean, double* sums))
KPDEFORM_DECLARE_ISA(void sum_gradients(const double* grad, const double* x, int64_t rows,
                                        int64_t channels, const double* mean, double* sums))

// result = scale grad + slope (x - mean) + shift; may be grad itself.
KPDEFORM_DECLARE_ISA(void combine_gradients(const float* grad, const float* x, int64_t rows,
                                            int64_t channels, const NormColumns<float>& columns,
                                            const float* slope, float* result))
KPDEFORM_DECLARE_ISA(void combine_gradients(const double* grad, const double* x, int64_t rows,
                                            int64_t channels, const NormColumns<double>& columns,
                                            const double* slope, double* result))

}  // namespace kpdeform
