// The points sampler: the rule that lists which rows of the features a kernel point of a site takes, and how much of each.
// Contract: kpconv.h sections 1-5.
#pragma once

#include <cstdint>

#include "sampling.h"
#include "simd.h"

namespace kpdeform::KPDEFORM_ISA {

// Carves arrays, each on its own cache lines, out of one workspace. With a null workspace it only counts bytes.
class Carver {
 public:
  explicit Carver(char* workspace) : base_(workspace) {}
  template <typename Item>
  Item* take(int64_t count) {
    Item* items = reinterpret_cast<Item*>(base_ + used_);
    used_ += (count * int64_t(sizeof(Item)) + 63) / 64 * 64;
    return items;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// What a sampler lists for one kernel point: rows of the source matrix, coefficients, and their derivatives by offset.
template <typename T>
struct SampleList {
  int count;
  const int64_t* rows;
  const T* coefficients;
  const T* derivatives[3];
};

// kPerSource: kernel positions differ from source to source (transposed and deformable), else from site to site.
template <typename T, bool kPerSource>
class PointsSampler {
 public:
  PointsSampler(const PointsView<T>& view, bool transposed, char* workspace)
      : view_(view), transposed_(transposed), classified_(needs_classes(view)) {
    carve(workspace);
  }

  static int64_t bytes(const PointsView<T>& view) { return PointsSampler(view, false, nullptr).used_; }

  // Loads the sources of a site.
  void open(int64_t site) {
    site_ = site;
    if (transposed_) {
      open_transposed();
    } else {
      open_row();
    }
    padded_ = (count_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    for (int j = count_; j < padded_; ++j) y_[0][j] = y_[1][j] = y_[2][j] = 0;
    if (classified_) classify();
  }

  int count() const { return count_; }

  // Rows with a non-zero coefficient for kernel point k, modulation included.
  SampleList<T> list(int k) {
    influences(k);
    if (view_.modulations != nullptr) modulate(k);
    return compact();
  }

  // The same without modulation, with derivatives of the coefficients by the offset of k.
  SampleList<T> list_derivatives(int k) {
    influences(k);
    SampleList<T> listed = compact();
    const T x[3] = {position(k, 0), position(k, 1), position(k, 2)};
    for (int i = 0; i < listed.count; ++i) {
      const int j = slots_[i];
      const T dy[3] = {y_[0][j] - x[0], y_[1][j] - x[1], y_[2][j] - x[2]};
      const T slope = slope_of(dy[0] * dy[0] + dy[1] * dy[1] + dy[2] * dy[2], coefficients_[i]);
      for (int d = 0; d < 3; ++d) derivatives_[d][i] = slope * dy[d];
    }
    return listed;
  }

  // Squared distance of kernel point k to every source; valid for the first count() entries.
  const T* squared_distances(int k) {
    squared(k, dense_);
    return dense_;
  }

  // Component d of source j relative to the query, minus the position of kernel point k.
  T difference(int k, int j, int d) const { return y_[d][j] - position(k, d); }

 private:
  static bool needs_classes(const PointsView<T>& view) {
    return view.aggregation == kClosest || prunes(view);
  }
  static bool prunes(const PointsView<T>& view) { return view.offsets != nullptr && view.influence != kLinear; }

  void carve(char* workspace) {
    Carver carver(workspace);
    const int64_t room = view_.max_sources + 2 * kLanes<T>;
    rows_ = carver.template take<int64_t>(room);
    listed_rows_ = carver.template take<int64_t>(room);
    slots_ = carver.template take<int32_t>(room);
    for (T*& component : y_) component = carver.template take<T>(room);
    for (T*& component : derivatives_) component = carver.template take<T>(room);
    dense_ = carver.template take<T>(room);
    coefficients_ = carver.template take<T>(room);
    smallest_ = carver.template take<T>(room);
    closest_ = carver.template take<T>(room);
    positions_ = kPerSource ? carver.template take<T>(room * view_.num_kernel_points * 3) : nullptr;
    room_ = room;
    used_ = carver.used();
  }

  void open_row() {
    const int64_t begin = site_ * view_.width;
    count_ = 0;
    for (int64_t h = 0; h < view_.width; ++h) {
      const int64_t n = view_.wide_index ? static_cast<const int64_t*>(view_.neighbors)[begin + h]
                                         : static_cast<const int32_t*>(view_.neighbors)[begin + h];
      rows_[count_] = n;
      count_ += n >= 0 && n < view_.num_points;
    }
    for (int d = 0; d < 3; ++d) {
      if (d < view_.dim) {
        const T q = view_.queries[site_ * view_.dim + d];
        for (int j = 0; j < count_; ++j) y_[d][j] = view_.points[rows_[j] * view_.dim + d] - q;
      } else {
        for (int j = 0; j < count_; ++j) y_[d][j] = 0;
      }
    }
  }

  void open_transposed() {
    const int64_t begin = view_.starts[site_];
    count_ = int(view_.starts[site_ + 1] - begin);
    for (int j = 0; j < count_; ++j) {
      rows_[j] = view_.members[begin + j];
      for (int d = 0; d < 3; ++d) {
        y_[d][j] = d < view_.dim ? view_.points[site_ * view_.dim + d] - view_.queries[rows_[j] * view_.dim + d] : T(0);
      }
    }
    if (kPerSource) gather_positions();
  }

  void gather_positions() {
    const int num_kernel_points = view_.num_kernel_points;
    for (int j = 0; j < count_; ++j) {
      const T* offset = view_.offsets + rows_[j] * num_kernel_points * view_.dim;
      for (int k = 0; k < num_kernel_points; ++k) {
        for (int d = 0; d < 3; ++d) {
          positions_[(k * 3 + d) * room_ + j] =
              d < view_.dim ? view_.kernel_points[k * view_.dim + d] + offset[k * view_.dim + d] : T(0);
        }
      }
    }
  }

  T position(int k, int d) const {
    if (d >= view_.dim) return 0;
    const T x = view_.kernel_points[k * view_.dim + d];
    return view_.offsets == nullptr ? x : x + view_.offsets[(site_ * view_.num_kernel_points + k) * view_.dim + d];
  }

  void squared(int k, T* __restrict out) const {
    const T *__restrict y0 = y_[0], *__restrict y1 = y_[1], *__restrict y2 = y_[2];
    if constexpr (kPerSource) {
      const T* x = positions_ + k * 3 * room_;
      const T *__restrict x0 = x, *__restrict x1 = x + room_, *__restrict x2 = x + 2 * room_;
      for (int j = 0; j < padded_; ++j) {
        const T d0 = y0[j] - x0[j], d1 = y1[j] - x1[j], d2 = y2[j] - x2[j];
        out[j] = d0 * d0 + d1 * d1 + d2 * d2;
      }
    } else {
      const T x0 = position(k, 0), x1 = position(k, 1), x2 = position(k, 2);
      for (int j = 0; j < padded_; ++j) {
        const T d0 = y0[j] - x0, d1 = y1[j] - x1, d2 = y2[j] - x2;
        out[j] = d0 * d0 + d1 * d1 + d2 * d2;
      }
    }
  }

  // Per source: the smallest squared distance to any kernel point, and which one that is.
  void classify() {
    T* __restrict smallest = smallest_;
    T* __restrict closest = closest_;
    T* __restrict current = dense_;
    squared(0, smallest);
    for (int j = 0; j < padded_; ++j) closest[j] = 0;
    for (int k = 1; k < view_.num_kernel_points; ++k) {
      squared(k, current);
      for (int j = 0; j < padded_; ++j) {
        const bool closer = current[j] < smallest[j];
        smallest[j] = closer ? current[j] : smallest[j];
        closest[j] = closer ? T(k) : closest[j];
      }
    }
  }

  void influences(int k) {
    T* __restrict a = dense_;
    squared(k, a);
    const Reach<T> reach = view_.reach;
    if (view_.influence == kLinear) {
      for (int j = 0; j < padded_; ++j) a[j] = linear_influence(a[j], reach);
    } else if (view_.influence == kGaussian) {
      for (int j = 0; j < padded_; ++j) a[j] = gaussian_influence(a[j], reach);
    } else {
      for (int j = 0; j < padded_; ++j) a[j] = 1;
    }
    if (prunes(view_)) {
      for (int j = 0; j < padded_; ++j) a[j] = smallest_[j] < reach.squared_sigma ? a[j] : T(0);
    }
    if (view_.aggregation == kClosest) {
      for (int j = 0; j < padded_; ++j) a[j] = closest_[j] == T(k) ? a[j] : T(0);
    }
  }

  void modulate(int k) {
    const int num_kernel_points = view_.num_kernel_points;
    if (transposed_) {
      for (int j = 0; j < count_; ++j) dense_[j] *= view_.modulations[rows_[j] * num_kernel_points + k];
    } else {
      const T modulation = view_.modulations[site_ * num_kernel_points + k];
      for (int j = 0; j < count_; ++j) dense_[j] *= modulation;
    }
  }

  T slope_of(T squared, T influence) const {
    if (view_.influence == kLinear) return linear_slope(squared, view_.reach);
    return view_.influence == kGaussian ? gaussian_slope(influence, view_.reach) : T(0);
  }

  SampleList<T> compact() {
    const int count = compress_nonzero(dense_, count_, coefficients_, slots_);
    for (int i = 0; i < count; ++i) listed_rows_[i] = rows_[slots_[i]];
    return {count, listed_rows_, coefficients_, {derivatives_[0], derivatives_[1], derivatives_[2]}};
  }

  const PointsView<T>& view_;
  const bool transposed_, classified_;
  int64_t site_ = 0, room_ = 0, used_ = 0;
  int count_ = 0, padded_ = 0;
  int64_t *rows_, *listed_rows_;      // of all sources; of the listed ones
  int32_t* slots_;                    // listed source -> source
  T* y_[3];                           // sources relative to the query
  T* positions_;                      // (K, 3, room) kernel positions, when they differ from source to source
  T *dense_, *coefficients_;          // influence of every source; of the listed ones
  T* derivatives_[3];
  T *smallest_, *closest_;            // see classify
};

}  // namespace kpdeform::KPDEFORM_ISA
