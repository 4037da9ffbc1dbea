// What the engine (engine_isa.cpp), its samplers and the ops that call them exchange: plain
// structs, no tensors.
#pragma once

#include <cstdint>

#include "../isa.h"
#include "points_math.h"
#include "views.h"

namespace kpdeform {

// Element types of features that are half as wide as the float they are computed in.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The points sampler's inputs. Seen plainly, a site is a query and its sources are its neighbours.
// Seen transposed (gradient of features), a site is a point and its sources are the queries that
// have it as neighbour. Offsets and modulations belong to the query in both.
template <typename T>
struct PointsView {
  using Number = T;
  const T* queries;        // (M, D)
  const T* points;         // (N, D)
  int64_t num_queries;     // M
  int64_t num_points;      // N
  const void* neighbors;   // (M, H)
  bool wide_index;         // neighbors are int64, else int32
  bool wide_members;       // the same for members
  int64_t width;           // H
  int64_t first_point;     // transposed: queries of point n are members[starts[i] - starts[0]] to
  const int64_t* starts;   // members[starts[i + 1] - starts[0] - 1], where i = n - first_point
  const void* members;     //
  int64_t max_sources;     // the most sources that any site has
  const T* kernel_points;  // (K, D)
  const T* offsets;        // (M, OG, K, D) or null
  const T* modulations;    // (M, K, MG) or null
  int64_t offset_groups;   // OG, 1 or G
  int64_t modulation_groups;  // MG, 1 or G
  T* distances;               // (M, OG, K) or null: squared distances, see kpconv.h section 7, that
                              // listing leaves there
  int num_kernel_points;      // K
  int dim;                    // D
  Influence influence;
  Aggregation aggregation;
  Reach<T> reach;

  int64_t only_group;  // the one group to look at, or -1: all

  bool transposed() const { return starts != nullptr; }
  // Groups of channels that have offsets or modulations of their own.
  int64_t num_groups() const {
    if (only_group >= 0) return 1;
    return offset_groups > modulation_groups ? offset_groups : modulation_groups;
  }
  // Where offset d of kernel point k, its modulation and its distance stand, for a query and a
  // group.
  int64_t offset_index(int64_t query, int64_t g, int64_t k, int64_t d) const {
    return ((query * offset_groups + number(g, offset_groups)) * num_kernel_points + k) * dim + d;
  }
  int64_t modulation_index(int64_t query, int64_t g, int64_t k) const {
    return (query * num_kernel_points + k) * modulation_groups + number(g, modulation_groups);
  }
  int64_t distance_index(int64_t query, int64_t g) const {
    return (query * offset_groups + g) * num_kernel_points;
  }

 private:
  int64_t number(int64_t g, int64_t groups) const {
    return groups == 1 ? 0 : only_group >= 0 ? only_group : g;
  }
};

// The dense combiner: out[m, g] = sum_k S[m, g, k] W[k, :, g]. One site's S is stored as (G, K,
// C/G), so that every group is one matrix product with K*C/G terms.
struct DenseShape {
  int64_t num_kernel_points;  // K
  int64_t in_channels;        // C
  int64_t out_channels;       // O
  int64_t groups;             // G
  int64_t in_stride;          // from one row of features to the next
  int64_t out_stride;         // from one row of the result to the next
  int64_t row() const { return num_kernel_points * in_channels; }
  int64_t terms() const { return num_kernel_points * group_in(); }
  bool empty() const { return in_channels == 0 || out_channels == 0; }
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

// Channels that belong to one group of the view and one of the weight.
struct Span {
  int64_t group;    // of the weight
  int64_t channel;  // the first
  int64_t width;
};

// Calls body(span) for the channels of group g of `groups` of a view.
template <typename Body>
void for_each_span(const DenseShape& shape, int64_t groups, int64_t g, const Body& body) {
  const int64_t size = shape.in_channels / groups, in = shape.group_in();
  for (int64_t c = g * size, end = c + size, stop; c < end; c = stop) {
    const int64_t group = c / in;
    stop = (group + 1) * in < end ? (group + 1) * in : end;
    body(Span{group, c, stop - c});
  }
}

// Where the backward of sites adds to, in the view's layout; null where a gradient is not wanted.
template <typename T>
struct SiteGradients {
  T* offsets;
  T* modulations;
  bool any() const { return offsets != nullptr || modulations != nullptr; }
};

// ---- The engine, compiled once per instruction set. Ranges of sites are [begin, end);
// `workspace` belongs to one thread and holds as many bytes as the function named beside it says.
// F is the element type of features, gradients and results, T what is computed in.
#define KPDEFORM_DECLARE_SAMPLING                                                                  \
  template <typename View>                                                                         \
  int64_t dense_bytes(const View& view, const DenseShape& shape);                                  \
  /* columns of a panel of a packed matrix: panel after panel, each (terms, columns) */            \
  template <typename T>                                                                            \
  int64_t panel_columns();                                                                         \
  /* `terms` rows of one panel, filled up with zeros from `columns` on */                          \
  template <typename T>                                                                            \
  void pack(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t terms,             \
            int64_t columns, T* packed);                                                           \
  /* out[m] of every site; `packed` has one packed (K*C/G, O/G) matrix per group; dense_bytes */   \
  template <typename View, typename F>                                                             \
  void sample_and_combine(const View& view, const DenseShape& shape, const F* features,            \
                          const typename View::Number* packed, F* out, int64_t begin, int64_t end, \
                          char* workspace);                                                        \
  /* Either or both of: sampled[m - begin] = S[m]; gradients of offsets and modulations, for which \
   * `packed` has one packed (O/G, K*C/G) matrix per group; dense_bytes */                         \
  template <typename View, typename F>                                                             \
  void sample_backward(const View& view, const DenseShape& shape, const F* features,               \
                       const F* grad, const typename View::Number* packed,                         \
                       const SiteGradients<typename View::Number>& gradients, int64_t begin,       \
                       int64_t end, typename View::Number* sampled, char* workspace);              \
  /* rows (count, columns) -> (count, groups, columns / groups rounded up to whole panels) */      \
  template <typename T, typename F>                                                                \
  void pad_groups(const F* rows, int64_t count, int64_t columns, int64_t groups, T* padded);       \
  /* out (rows, columns) += left (count, rows)^T @ right (count, columns); rows of `right` reach   \
   * to a whole panel */                                                                           \
  template <typename T>                                                                            \
  void accumulate_outer(const T* left, int64_t left_stride, const T* right, int64_t right_stride,  \
                        int64_t count, int64_t rows, int64_t columns, T* out, int64_t out_stride); \
  template <typename View>                                                                         \
  int64_t depthwise_bytes(const View& view, int64_t channels);                                     \
  /* The depthwise combiner: out[m] = sum_k S[m, k] * W[k], element by element; depthwise_bytes */ \
  template <typename View, typename F>                                                             \
  void combine_depthwise(const View& view, int64_t channels, const F* features,                    \
                         const typename View::Number* weight, F* out, int64_t begin, int64_t end,  \
                         char* workspace);                                                         \
  /* Adds to the gradients; grad_weight (K, C) may be null; depthwise_bytes */                     \
  template <typename View, typename F>                                                             \
  void depthwise_backward(const View& view, int64_t channels, const F* features, const F* grad,    \
                          const typename View::Number* weight, typename View::Number* grad_weight, \
                          const SiteGradients<typename View::Number>& gradients, int64_t begin,    \
                          int64_t end, char* workspace);                                           \
  template <typename View>                                                                         \
  int64_t listing_bytes(const View& view);                                                         \
  /* The lowest and the highest row that sites of block b, [b * size, (b + 1) * size), take, for   \
   * blocks [begin, end); a block that takes none has lowest > highest; listing_bytes */           \
  template <typename View>                                                                         \
  void row_ranges(const View& view, int64_t size, int64_t begin, int64_t end, uint32_t* lowest,    \
                  uint32_t* highest, char* workspace);                                             \
  /* Counts the pairs of sites [begin, end) that take rows [low, high), in                         \
   * counts[((row - low) * groups + g) * K + k]; listing_bytes */                                  \
  template <typename View>                                                                         \
  void count_pairs(const View& view, int64_t low, int64_t high, int64_t begin, int64_t end,        \
                   int64_t* counts, char* workspace);                                              \
  /* Lists the same pairs, each at next[the same index]++; kernels may be null; listing_bytes */   \
  template <typename View>                                                                         \
  void list_pairs(const View& view, int64_t low, int64_t high, int64_t begin, int64_t end,         \
                  int64_t* next, uint32_t* sites, int32_t* kernels,                                \
                  typename View::Number* coefficients, char* workspace);                           \
  /* Leaves view.distances alone; sampler_bytes */                                                 \
  template <typename T>                                                                            \
  int64_t sampler_bytes(const PointsView<T>& view);                                                \
  template <typename T>                                                                            \
  void min_squared_distances(const PointsView<T>& view, int64_t begin, int64_t end,                \
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
