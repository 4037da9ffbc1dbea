// What the engine (engine_isa.cpp), its samplers and the ops that call them exchange: plain
// structs, no tensors.
#pragma once

#include <cstdint>

#include "../isa.h"
#include "points_math.h"

namespace kpdeform {

// The points sampler's inputs. Seen plainly, a site is a query and its sources are its neighbours.
// Seen transposed (gradient of features), a site is a point and its sources are the queries that
// have it as neighbour. Offsets and modulations belong to the query in both.
template <typename T>
struct PointsView {
  const T* queries;       // (M, D)
  const T* points;        // (N, D)
  int64_t num_queries;    // M
  int64_t num_points;     // N
  const void* neighbors;  // (M, H)
  bool wide_index;        // neighbors are int64, else int32
  int64_t width;          // H
  const int64_t* starts;  // transposed: queries of point n are members[starts[n]], ...,
                          // members[starts[n + 1] - 1]
  const int64_t* members;
  int64_t max_sources;     // the most sources that any site has
  const T* kernel_points;  // (K, D)
  const T* offsets;        // (M, K, D) or null
  const T* modulations;    // (M, K) or null
  int num_kernel_points;   // K
  int dim;                 // D
  Influence influence;
  Aggregation aggregation;
  Reach<T> reach;
};

// The dense combiner: out[m, g] = sum_k S[m, g, k] W[k, :, g]. One site's S is stored as (G, K,
// C/G), so that every group is one matrix product with K*C/G terms.
struct DenseShape {
  int64_t num_kernel_points;  // K
  int64_t in_channels;        // C
  int64_t out_channels;       // O
  int64_t groups;             // G
  int64_t row() const { return num_kernel_points * in_channels; }
  int64_t terms() const { return num_kernel_points * group_in(); }
  bool empty() const { return in_channels == 0 || out_channels == 0; }
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

// Where the backward of a tile writes; null where a gradient is not wanted.
template <typename T>
struct SiteGradients {
  T* offsets;      // (M, K, D)
  T* modulations;  // (M, K)
};

// ---- The engine, compiled once per instruction set. Ranges of sites are [begin, end); `workspace`
// holds sampler_bytes(view) bytes and belongs to one thread.
#define KPDEFORM_DECLARE_SAMPLING                                                                  \
  template <typename T>                                                                            \
  int64_t sampler_bytes(const PointsView<T>& view, bool transposed);                               \
  /* (terms, columns) -> panels of columns; packed_size(1, columns) is `columns` rounded up to     \
   * whole panels */                                                                               \
  template <typename T>                                                                            \
  int64_t packed_size(int64_t terms, int64_t columns);                                             \
  template <typename T>                                                                            \
  void pack(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t terms,             \
            int64_t columns, T* packed);                                                           \
  /* out[m] for every site; `packed` has one packed (K*C/G, O/G) matrix per group, `tile` room for \
   * tile_sites S */                                                                               \
  template <typename T>                                                                            \
  void sample_and_combine(const PointsView<T>& view, bool transposed, const DenseShape& shape,     \
                          const T* features, const T* packed, T* out, int64_t begin, int64_t end,  \
                          T* tile, int64_t tile_sites, char* workspace);                           \
  /* sampled[m - begin] = S[m] */                                                                  \
  template <typename T>                                                                            \
  void sample(const PointsView<T>& view, const DenseShape& shape, const T* features,               \
              int64_t begin, int64_t end, T* sampled, char* workspace);                            \
  /* gradients of offsets and modulations; grad_sampled[m - begin] is the gradient of S[m] */      \
  template <typename T>                                                                            \
  void sample_backward(const PointsView<T>& view, const DenseShape& shape, const T* features,      \
                       const T* grad_sampled, int64_t begin, int64_t end,                          \
                       const SiteGradients<T>& gradients, char* workspace);                        \
  /* out (rows, columns) = left (rows, terms) @ packed */                                          \
  template <typename T>                                                                            \
  void multiply(const T* left, int64_t left_stride, int64_t rows, int64_t terms, const T* packed,  \
                int64_t columns, T* out, int64_t out_stride);                                      \
  /* out (rows, columns) += left (count, rows)^T @ right (count, columns); rows of `right` reach   \
   * to a whole panel */                                                                           \
  template <typename T>                                                                            \
  void accumulate_outer(const T* left, int64_t left_stride, const T* right, int64_t right_stride,  \
                        int64_t count, int64_t rows, int64_t columns, T* out, int64_t out_stride); \
  template <typename T>                                                                            \
  void min_squared_distances(const PointsView<T>& view, int64_t begin, int64_t end, T* out,        \
                             char* workspace);                                                     \
  template <typename T>                                                                            \
  void min_squared_distances_backward(const PointsView<T>& view, const T* grad, int64_t begin,     \
                                      int64_t end, T* grad_offsets, char* workspace);

namespace base {
KPDEFORM_DECLARE_SAMPLING
}
#ifdef KPDEFORM_X86
namespace avx2 {
KPDEFORM_DECLARE_SAMPLING
}
namespace avx512 {
KPDEFORM_DECLARE_SAMPLING
}
#endif

}  // namespace kpdeform
