// The points sampler: the rule that lists which rows of the features a kernel point of a site
// takes, and how much of each. Contract: kpconv.h sections 1-5.
#pragma once

#include <cstdint>

#include "sampling.h"
#include "simd.h"

namespace kpdeform::KPDEFORM_ISA {

// Carves arrays, each on its own cache lines, out of one workspace. With a null workspace it only
// counts bytes.
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

// What a sampler lists for one kernel point: rows of the source matrix, coefficients, and their
// derivatives by offset.
template <typename T>
struct SampleList {
  int count;
  const int64_t* rows;
  const T* coefficients;
  const T* derivatives[3];
};

// kPerSource: kernel positions differ from source to source (transposed and deformable), else from
// site to site.
template <typename T, bool kPerSource>
class PointsSampler {
 public:
  PointsSampler(const PointsView<T>& view, bool transposed, char* workspace)
      : view_(view), transposed_(transposed), classified_(needs_classes(view)) {
    carve(workspace);
  }

  static int64_t bytes(const PointsView<T>& view) {
    return PointsSampler(view, false, nullptr).used_;
  }

  // Loads the sources of a site.
  void open(int64_t site) {
    site_ = site;
    if (transposed_) {
      open_transposed();
    } else {
      open_row();
    }
    pad();
    if (classified_) classify();
  }

  int count() const { return count_; }

  // Rows with a non-zero coefficient for kernel point k, modulation included.
  SampleList<T> list(int k) {
    const SampleList<T> listed = list_influences(k);
    if (view_.modulations != nullptr) modulate(k, listed.count);
    return listed;
  }

  // The same without modulation, with derivatives of the coefficients by the offset of k.
  SampleList<T> list_derivatives(int k) {
    const SampleList<T> listed = list_influences(k);
    const T x[3] = {position(k, 0), position(k, 1), position(k, 2)};
    for (int i = 0; i < listed.count; ++i) {
      const int j = slots_[i];
      const T dy[3] = {y_[0][j] - x[0], y_[1][j] - x[1], y_[2][j] - x[2]};
      const T slope = slope_of(dy[0] * dy[0] + dy[1] * dy[1] + dy[2] * dy[2], coefficients_[i]);
      for (int d = 0; d < 3; ++d) derivatives_[d][i] = slope * dy[d];
    }
    return listed;
  }

  // Squared distance of kernel point k to every source: count() numbers.
  const T* squared_distances(int k) {
    for_each_vector(k, [&](int j, Vec<T> squared) { store(scratch_ + j, squared); });
    return scratch_;
  }

  // Component d of source j relative to the query, minus the position of kernel point k.
  T difference(int k, int j, int d) const { return y_[d][j] - position(k, d); }

 private:
  static bool needs_classes(const PointsView<T>& view) {
    return view.aggregation == kClosest || prunes(view);
  }
  static bool prunes(const PointsView<T>& view) {
    return view.offsets != nullptr && view.influence != kLinear;
  }

  void carve(char* workspace) {
    Carver carver(workspace);
    const int64_t room = view_.max_sources + 2 * kLanes<T>;
    rows_ = carver.template take<int64_t>(room);
    listed_rows_ = carver.template take<int64_t>(room);
    slots_ = carver.template take<int32_t>(room);
    for (T*& component : y_) component = carver.template take<T>(room);
    for (T*& component : derivatives_) component = carver.template take<T>(room);
    scratch_ = carver.template take<T>(room);
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
    for (int d = 0; d < view_.dim; ++d) {
      const T q = view_.queries[site_ * view_.dim + d];
      for (int j = 0; j < count_; ++j) y_[d][j] = view_.points[rows_[j] * view_.dim + d] - q;
    }
  }

  void open_transposed() {
    const int64_t begin = view_.starts[site_];
    count_ = int(view_.starts[site_ + 1] - begin);
    for (int j = 0; j < count_; ++j) rows_[j] = view_.members[begin + j];
    for (int d = 0; d < view_.dim; ++d) {
      const T p = view_.points[site_ * view_.dim + d];
      for (int j = 0; j < count_; ++j) y_[d][j] = p - view_.queries[rows_[j] * view_.dim + d];
    }
    if (kPerSource) gather_positions();
  }

  void gather_positions() {
    const int64_t numbers = int64_t(view_.num_kernel_points) * view_.dim;
    for (int j = 0; j < count_; ++j) {
      const T* offset = view_.offsets + rows_[j] * numbers;
      T* target = positions_ + j;
      for (int64_t i = 0; i < numbers; ++i) target[i * room_] = view_.kernel_points[i] + offset[i];
    }
  }

  // Fills the last vector with sources that are infinitely far, and so in reach of nothing.
  void pad() {
    padded_ = (count_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    for (int j = count_; j < padded_; ++j) y_[0][j] = y_[1][j] = y_[2][j] = T(__builtin_inf());
    if (view_.dim == 2) {
      for (int j = 0; j < count_; ++j) y_[2][j] = 0;
    }
  }

  T position(int k, int d) const {
    if (d >= view_.dim) return 0;
    const T x = view_.kernel_points[k * view_.dim + d];
    return view_.offsets == nullptr
               ? x
               : x + view_.offsets[(site_ * view_.num_kernel_points + k) * view_.dim + d];
  }

  // body(j, squared distances of kernel point k to sources j, j + 1, ...) for all sources and the
  // padding.
  template <typename Body>
  void for_each_vector(int k, const Body& body) const {
    Vec<T> x[3];
    for (int d = 0; d < 3; ++d) x[d] = broadcast(kPerSource ? T(0) : position(k, d));
    for (int j = 0; j < padded_; j += kLanes<T>) {
      Vec<T> squared = {};
      for (int d = 0; d < 3; ++d) {
        if (kPerSource && d < view_.dim)
          x[d] = load(positions_ + (int64_t(k) * view_.dim + d) * room_ + j);
        const Vec<T> difference = load(y_[d] + j) - x[d];
        squared += difference * difference;
      }
      body(j, squared);
    }
  }

  // Per source: the smallest squared distance to any kernel point, and which one that is.
  void classify() {
    for_each_vector(0, [&](int j, Vec<T> squared) {
      store(smallest_ + j, squared);
      store(closest_ + j, Vec<T>{});
    });
    for (int k = 1; k < view_.num_kernel_points; ++k) {
      for_each_vector(k, [&](int j, Vec<T> squared) {
        const auto closer = squared < load(smallest_ + j);
        store(smallest_ + j, closer ? squared : load(smallest_ + j));
        store(closest_ + j, closer ? broadcast(T(k)) : load(closest_ + j));
      });
    }
  }

  // Lists the sources that count for kernel point k, then turns their distances into influences:
  // only about one pair in eight is within reach.
  SampleList<T> list_influences(int k) {
    const T limit = view_.influence == kLinear ? view_.reach.squared_sigma : T(__builtin_inf());
    int count = 0;
    for_each_vector(k, [&](int j, Vec<T> squared) {
      Mask<T> keep = squared < limit;
      if (classified_) keep &= keeps(k, j);
      count = append<T>(squared, keep, j, coefficients_, slots_, count);
    });
    to_influences(count);
    for (int i = 0; i < count; ++i) listed_rows_[i] = rows_[slots_[i]];
    return {
        count, listed_rows_, coefficients_, {derivatives_[0], derivatives_[1], derivatives_[2]}};
  }

  void to_influences(int count) {
    if (view_.influence == kLinear) {
      for (int i = 0; i < count; i += kLanes<T>) {
        store(coefficients_ + i,
              linear_influence(square_root<T>(load(coefficients_ + i)), view_.reach));
      }
    } else if (view_.influence == kGaussian) {
      for (int i = 0; i < count; ++i)
        coefficients_[i] = gaussian_influence(coefficients_[i], view_.reach);
    } else {
      for (int i = 0; i < count; ++i) coefficients_[i] = 1;
    }
  }

  // Which of the sources j, j + 1, ... kernel point k may take, by aggregation and pruning.
  Mask<T> keeps(int k, int j) const {
    Mask<T> keep = load(smallest_ + j) < T(__builtin_inf());
    if (prunes(view_)) keep &= load(smallest_ + j) < view_.reach.squared_sigma;
    if (view_.aggregation == kClosest) keep &= load(closest_ + j) == T(k);
    return keep;
  }

  void modulate(int k, int count) {
    const T* modulation = view_.modulations + k;
    for (int i = 0; i < count; ++i) {
      const int64_t query = transposed_ ? listed_rows_[i] : site_;
      coefficients_[i] *= modulation[query * view_.num_kernel_points];
    }
  }

  T slope_of(T squared, T influence) const {
    if (view_.influence == kLinear) return linear_slope(std::sqrt(squared), view_.reach);
    return view_.influence == kGaussian ? gaussian_slope(influence, view_.reach) : T(0);
  }

  const PointsView<T>& view_;
  const bool transposed_, classified_;
  int64_t site_ = 0, room_ = 0, used_ = 0;
  int count_ = 0, padded_ = 0;
  int64_t *rows_, *listed_rows_;  // of all sources; of the listed ones
  int32_t* slots_;                // listed source -> source
  T* y_[3];                       // sources relative to the query
  T* positions_;  // (K, D, room) kernel positions, when they differ from source to source
  T *scratch_, *coefficients_;  // a number of every source; the influence of the listed ones
  T* derivatives_[3];
  T *smallest_, *closest_;  // see classify
};

}  // namespace kpdeform::KPDEFORM_ISA
