// Sizes of the dense combiner, for the engines of both devices.
#pragma once

#include <cstdint>

namespace kpdeform {

// The dense combiner computes out[m, g] = sum_k S[m, g, k] W[k, :, g]. The S of one site is stored
// as (G, K, C/G), so that every group is one matrix product with K*C/G terms.
struct DenseShape {
  int64_t num_kernel_points;  // K
  int64_t in_channels;        // C
  int64_t out_channels;       // O
  int64_t groups;             // G
  int64_t in_stride = 0;      // from one row of features to the next
  int64_t out_stride = 0;     // from one row of the result to the next
  int64_t row() const { return num_kernel_points * in_channels; }
  int64_t terms() const { return num_kernel_points * group_in(); }
  bool empty() const { return in_channels == 0 || out_channels == 0; }
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

// AMX tiles of bfloat16 matrices.
constexpr int64_t kPairColumns = 16;  // columns of a tile of the right matrix
constexpr int64_t kPairTerms = 32;    // terms of a tile
constexpr int64_t kPairRows = 32;     // rows that are multiplied at once: two tiles

inline int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace kpdeform
