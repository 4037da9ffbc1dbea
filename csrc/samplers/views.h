// The inputs of the samplers: plain structs, no tensors. Shapes: kpconv/kpconv.h,
// deform/deform_conv2d.h, deform/deform_roi_pool.h.
#pragma once

#include <cstdint>

#include "samplers/boxes_math.h"
#include "samplers/points_math.h"

namespace kpdeform {

// The inputs of the points sampler. In the plain view, a site is a query and its sources are its
// neighbours. In the transposed view, used for the gradient of features, a site is a point and its
// sources are the queries that have this point as a neighbour. Offsets and modulations belong to
// the query in both views.
template <typename T>
struct PointsView {
  using Number = T;
  const T* queries;        // (M, D)
  const T* points;         // (N, D)
  int64_t num_queries;     // M
  int64_t num_points;      // N
  const void* neighbors;   // (M, H)
  bool wide_index;         // neighbors are int64, otherwise int32
  bool wide_members;       // the same for members
  int64_t width;           // H
  int64_t first_point;     // transposed: queries of point n are members[starts[i] - starts[0]] to
  const int64_t* starts;   // members[starts[i + 1] - starts[0] - 1], where i = n - first_point
  const void* members;     //
  int64_t max_sources;     // the largest number of sources of a site
  const T* kernel_points;  // (K, D)
  const T* offsets;        // (M, OG, K, D) or null
  const T* modulations;    // (M, K, MG) or null
  int64_t offset_groups;   // OG, 1 or G
  int64_t modulation_groups;  // MG, 1 or G
  T* distances;               // (M, OG, K) or null. Optional output: list() writes the squared
                              // distances of section 7 of kpconv.h here
  int num_kernel_points;      // K
  int dim;                    // D
  Influence influence;
  Aggregation aggregation;
  Reach<T> reach;

  int64_t only_group;  // the only group to process, or -1 for all groups

  bool transposed() const { return starts != nullptr; }
  // The number of groups of channels that have offsets or modulations of their own.
  int64_t num_groups() const {
    if (only_group >= 0) return 1;
    return offset_groups > modulation_groups ? offset_groups : modulation_groups;
  }
  // The indices of offset d of kernel point k, of its modulation, and of the distances, for a query
  // and a group.
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

// A site is an output pixel; a row is a pixel of the input.
template <typename T>
struct GridView {
  using Number = T;
  static constexpr int dim = 2;
  int64_t images, height, width;  // B, H, W
  int64_t out_height, out_width;  // oh, ow
  int64_t kernel_width;
  int64_t stride[2], before[2], dilation[2];  // y, x; `before`: padding at the top, left
  const T* offsets;                           // (M, OG, K, 2)
  const T* modulations;                       // (M, OG, K) or null
  int64_t offset_groups;                      // OG
  int64_t modulation_groups;                  // OG
  int num_kernel_points;                      // K

  bool transposed() const { return false; }
  int64_t num_groups() const { return offset_groups; }
  int64_t num_rows() const { return images * height * width; }
  int64_t num_sites() const { return images * out_height * out_width; }
  // The first site, and the end of the sites, that may sample rows of [first, last).
  int64_t first_site(int64_t first) const {
    return first / (height * width) * out_height * out_width;
  }
  int64_t last_site(int64_t last) const {
    return ((last - 1) / (height * width) + 1) * out_height * out_width;
  }
  int64_t offset_index(int64_t site, int64_t g, int64_t k, int64_t d) const {
    return modulation_index(site, g, k) * dim + d;
  }
  int64_t modulation_index(int64_t site, int64_t g, int64_t k) const {
    return (site * offset_groups + g) * num_kernel_points + k;
  }
};

// A site is a bin of a box and has one kernel point; a row is one cell of one pixel of the input.
template <typename T>
struct BoxesView {
  using Number = T;
  static constexpr int dim = 2;
  static constexpr int num_kernel_points = 1;
  static constexpr const T* modulations = nullptr;
  int64_t images, height, width;  // B, H, W
  int64_t cells[2];               // Gh, Gw
  int64_t num_boxes;              // R
  int64_t bins[2];                // ph, pw
  const T* boxes;                 // (R, 5)
  const T* offsets;               // shifts (R, ph, pw, OG, 2) or null
  int64_t offset_groups;          // OG
  int64_t modulation_groups;      // 1
  int64_t samples;
  PoolingRule rule;

  bool transposed() const { return false; }
  int64_t num_groups() const { return offset_groups; }
  int64_t num_rows() const { return images * height * width * cells[0] * cells[1]; }
  int64_t num_sites() const { return num_boxes * bins[0] * bins[1]; }
  int64_t first_site(int64_t) const { return 0; }
  int64_t last_site(int64_t) const { return num_sites(); }
  int64_t offset_index(int64_t site, int64_t g, int64_t, int64_t d) const {
    return (site * offset_groups + g) * dim + d;
  }
  int64_t modulation_index(int64_t, int64_t, int64_t) const { return 0; }
};

// The transposed view of another view: its sites are the rows of that view, its rows are the sites
// of that view, and its coefficients include the modulation. It covers a range of the other view's
// rows and one or all of its groups.
template <typename T>
struct TableView {
  using Number = T;
  static constexpr const T* modulations = nullptr;
  int64_t first_site;         // sites are first_site, first_site + 1, ...
  int64_t only_group;         // the only group to process, or -1 for all groups
  int64_t offset_groups;      // groups
  int64_t modulation_groups;  // 1
  int num_kernel_points;      // K
  const int64_t* starts;      // first pair of every (site, group, k), then the number of pairs
  const uint32_t* rows;       // row of every pair, ascending within (site, group, k)
  const int32_t* kernels;     // kernel point of every pair, or null
  const T* coefficients;

  bool transposed() const { return false; }
  int64_t num_groups() const { return only_group >= 0 ? 1 : offset_groups; }
  int64_t modulation_index(int64_t, int64_t, int64_t) const { return 0; }
};

}  // namespace kpdeform
