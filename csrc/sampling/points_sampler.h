// The points sampler: the rule that lists which rows of the features a kernel point of a site
// takes, and how much of each. Contract: kpconv.h sections 1-5.
#pragma once

#include <cstdint>

#include "sampler.h"
#include "sampling.h"
#include "simd.h"

namespace kpdeform::KPDEFORM_ISA {

// kPerSource: kernel positions differ from source to source (transposed and deformable), else from
// site to site.
template <typename T, bool kPerSource>
class PointsSampler {
 public:
  static constexpr int kDims = 3;  // derivatives of a coefficient; flat clouds leave the last 0

  PointsSampler(const PointsView<T>& view, bool kernels_wanted, char* workspace)
      : view_(view),
        kernels_wanted_(kernels_wanted),
        classified_(view.aggregation == kClosest || prunes(view)) {
    carve(workspace);
    if (workspace == nullptr) return;
    for (int64_t j = 0; j < room_; ++j) numbers_[j] = uint32_t(j);
    if (!kPerSource) place_kernel(nullptr);
  }

  static int64_t bytes(const PointsView<T>& view) {
    return PointsSampler(view, false, nullptr).used_;
  }

  // Loads the sources of a site from number `begin` on; returns the number of the next one to load,
  // 0 when these were the last. A site has any number of sources, but no more than kSources at a
  // time.
  int64_t open(int64_t site, int64_t begin) {
    site_ = site;
    const int64_t rest = view_.transposed() ? load_transposed(begin) : load_row(begin);
    first_ = begin == 0;
    last_ = rest == 0;
    pad();
    return rest;
  }

  int count() const { return count_; }

  // The pairs of group g. Leaves distances, if the view wants them.
  Pairs<T> list(int64_t g) {
    select(g);
    if (view_.distances != nullptr && (g == 0 || view_.offset_groups > 1)) leave_distances(g);
    return list_influences(g, false);
  }

  // The same with the derivatives of the coefficients by the kernel point's offset.
  Pairs<T> list_derivatives(int64_t g) {
    select(g);
    const Pairs<T> pairs = list_influences(g, true);
    for (int i = 0; i < pairs.count; ++i) {
      const int j = int(slots_[i]), k = kernels_[i];
      T dy[3], squared = 0;
      for (int d = 0; d < 3; ++d) {
        dy[d] = y_[d][j] - position(k, d);
        squared += dy[d] * dy[d];
      }
      const T slope = slope_of(squared, coefficients_[i]);
      for (int d = 0; d < 3; ++d) derivatives_[d][i] = slope * dy[d];
    }
    return pairs;
  }

  // Leaves the smallest squared distance of every kernel point of the selected group g to the
  // site's sources, 0 if it has none.
  void leave_distances(int64_t g) {
    T* distances = view_.distances + view_.distance_index(site_, g);
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      Vec<T> least = broadcast(first_ ? T(__builtin_inf()) : distances[k]);
      for_each_vector(k, [&](int, Vec<T> squared) { least = squared < least ? squared : least; });
      const T smallest = horizontal_min<T>(least);
      distances[k] = last_ && !(smallest < T(__builtin_inf())) ? T(0) : smallest;
    }
  }

  // The first of the loaded sources that are nearest to kernel point k of the selected group: its
  // squared distance, infinite without any, and its position relative to the kernel point.
  struct Nearest {
    T squared;
    T difference[3];
  };
  Nearest nearest(int k) {
    for_each_vector(k, [&](int j, Vec<T> value) { store(scratch_ + j, value); });
    Nearest result{T(__builtin_inf()), {}};
    int at = -1;
    for (int j = 0; j < count_; ++j) {
      const bool closer = scratch_[j] < result.squared;
      result.squared = closer ? scratch_[j] : result.squared;
      at = closer ? j : at;
    }
    for (int d = 0; d < view_.dim && at >= 0; ++d) result.difference[d] = y_[d][at] - position(k, d);
    return result;
  }

  // Moves the kernel points to where group g has them: (K, 3) of the site, or (K, D, room) of each
  // source.
  void select(int64_t g) {
    const int64_t numbers = int64_t(view_.num_kernel_points) * view_.dim;
    const int64_t groups = view_.offset_groups;
    if (view_.offsets != nullptr) {
      const T* offsets = view_.offsets + (groups > 1 ? g * numbers : 0);
      if constexpr (kPerSource) {
        for (int j = 0; j < count_; ++j) {
          const T* offset = offsets + int64_t(rows_[j]) * groups * numbers;
          for (int64_t i = 0; i < numbers; ++i)
            positions_[i * room_ + j] = view_.kernel_points[i] + offset[i];
        }
      } else {
        place_kernel(offsets + site_ * groups * numbers);
      }
    }
    if (classified_) classify();
  }

 private:
  static constexpr int64_t kSources = 256;

  static bool prunes(const PointsView<T>& view) {
    return view.offsets != nullptr && view.influence != kLinear;
  }

  void carve(char* workspace) {
    Carver carver(workspace);
    const int64_t kernels = view_.num_kernel_points;
    room_ = (view_.max_sources < kSources ? view_.max_sources : kSources) + 2 * kLanes<T>;
    rows_ = carver.template take<uint32_t>(room_);
    numbers_ = carver.template take<uint32_t>(room_);
    for (T*& component : y_) component = carver.template take<T>(room_);
    scratch_ = carver.template take<T>(room_);
    smallest_ = carver.template take<T>(room_);
    closest_ = carver.template take<T>(room_);
    positions_ = carver.template take<T>((kPerSource ? room_ : 1) * kernels * 3);
    begins_ = carver.template take<int32_t>(kernels + 1);
    const int64_t pairs = room_ * kernels + kLanes<T>;
    listed_rows_ = carver.template take<uint32_t>(pairs);
    slots_ = carver.template take<uint32_t>(pairs);
    kernels_ = carver.template take<int32_t>(pairs);
    coefficients_ = carver.template take<T>(pairs);
    modulated_ = view_.modulations != nullptr ? carver.template take<T>(pairs) : nullptr;
    for (T*& component : derivatives_) component = carver.template take<T>(pairs);
    used_ = carver.used();
  }

  int64_t load_row(int64_t begin) {
    return view_.wide_index ? load_row_of(static_cast<const int64_t*>(view_.neighbors), begin)
                            : load_row_of(static_cast<const int32_t*>(view_.neighbors), begin);
  }

  template <typename Index>
  int64_t load_row_of(const Index* neighbors, int64_t begin) {
    const int64_t end = begin + kSources < view_.width ? begin + kSources : view_.width;
    const Index* row = neighbors + site_ * view_.width;
    count_ = 0;
    for (int64_t h = begin; h < end; ++h) {
      rows_[count_] = uint32_t(row[h]);
      count_ += row[h] >= 0 && row[h] < view_.num_points;
    }
    place_sources(view_.points, view_.queries, T(1));
    return end < view_.width ? end : 0;
  }

  int64_t load_transposed(int64_t begin) {
    return view_.wide_members
               ? load_members(static_cast<const int64_t*>(view_.members), begin)
               : load_members(static_cast<const int32_t*>(view_.members), begin);
  }

  template <typename Index>
  int64_t load_members(const Index* members, int64_t begin) {
    const int64_t point = site_ - view_.first_point;
    const int64_t total = view_.starts[point + 1] - view_.starts[point];
    const int64_t end = begin + kSources < total ? begin + kSources : total;
    members += view_.starts[point] - view_.starts[0];
    count_ = int(end - begin);
    for (int j = 0; j < count_; ++j) rows_[j] = uint32_t(members[begin + j]);
    place_sources(view_.queries, view_.points, T(-1));
    return end < total ? end : 0;
  }

  // y = point - query, whichever of the two the sources are.
  void place_sources(const T* sources, const T* sites, T sign) {
    for (int d = 0; d < view_.dim; ++d) {
      const T site = sites[site_ * view_.dim + d];
      for (int j = 0; j < count_; ++j)
        y_[d][j] = sign * (sources[int64_t(rows_[j]) * view_.dim + d] - site);
    }
  }

  // Fills the last vector with sources that are infinitely far, and so in reach of nothing.
  void pad() {
    padded_ = (count_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    for (int j = count_; j < padded_; ++j) {
      y_[0][j] = y_[1][j] = y_[2][j] = T(__builtin_inf());
      rows_[j] = 0;
    }
    if (view_.dim == 2) {
      for (int j = 0; j < count_; ++j) y_[2][j] = 0;
    }
  }

  void place_kernel(const T* offset) {
    const int dim = view_.dim;
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      for (int d = 0; d < 3; ++d) {
        const T x = d < dim ? view_.kernel_points[k * dim + d] : T(0);
        positions_[k * 3 + d] = d < dim && offset != nullptr ? x + offset[k * dim + d] : x;
      }
    }
  }

  T position(int k, int d) const { return positions_[k * 3 + d]; }  // of the site

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
    for (int j = 0; j < padded_; j += kLanes<T>) {
      store(smallest_ + j, broadcast(T(__builtin_inf())));
      store(closest_ + j, Vec<T>{});
    }
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      for_each_vector(k, [&](int j, Vec<T> squared) {
        const Vec<T> smallest = load(smallest_ + j), closest = load(closest_ + j);
        const auto closer = squared < smallest;
        store(smallest_ + j, closer ? squared : smallest);
        store(closest_ + j, closer ? broadcast(T(k)) : closest);
      });
    }
  }

  // Lists the pairs within reach, then turns their distances into influences: only about one pair
  // in eight is within reach.
  Pairs<T> list_influences(int64_t g, bool slots_wanted) {
    const int count = view_.aggregation == kClosest ? list_closest() : list_all(slots_wanted);
    to_influences(count);
    if (view_.modulations != nullptr) modulate(g);
    return {count,
            begins_,
            kernels_,
            listed_rows_,
            coefficients_,
            view_.modulations != nullptr ? modulated_ : coefficients_,
            {derivatives_[0], derivatives_[1], derivatives_[2]}};
  }

  T limit() const {
    return view_.influence == kLinear ? view_.reach.squared_sigma : T(__builtin_inf());
  }

  int list_all(bool slots_wanted) {
    const Vec<T> limit = broadcast(this->limit()), reach = broadcast(view_.reach.squared_sigma);
    const bool pruned = prunes(view_);
    int count = 0;
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      begins_[k] = count;
      for_each_vector(k, [&](int j, Vec<T> squared) {
        Lanes keep = below<T>(squared, limit);
        if (pruned) keep &= below<T>(load(smallest_ + j), reach);
        compress<T>(squared, keep, coefficients_ + count);
        compress_words<T>(rows_ + j, keep, listed_rows_ + count);
        if (slots_wanted) compress_words<T>(numbers_ + j, keep, slots_ + count);
        if (slots_wanted || kernels_wanted_) {
          for (int lane = 0; lane < kLanes<T>; ++lane) kernels_[count + lane] = k;
        }
        count += __builtin_popcount(keep);
      });
    }
    begins_[view_.num_kernel_points] = count;
    return count;
  }

  // One pair per source in reach, by counting sort over the kernel points.
  int list_closest() {
    const T limit = prunes(view_) ? view_.reach.squared_sigma : this->limit();
    for (int k = 0; k <= view_.num_kernel_points; ++k) begins_[k] = 0;
    for (int j = 0; j < count_; ++j)
      begins_[int(closest_[j])] += smallest_[j] < limit;
    int count = 0;
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      const int size = begins_[k];
      begins_[k] = count;
      count += size;
    }
    for (int j = 0; j < count_; ++j) {
      if (!(smallest_[j] < limit)) continue;
      const int k = int(closest_[j]), i = begins_[k]++;
      slots_[i] = uint32_t(j);
      kernels_[i] = k;
      listed_rows_[i] = rows_[j];
      coefficients_[i] = smallest_[j];
    }
    for (int k = view_.num_kernel_points; k > 0; --k) begins_[k] = begins_[k - 1];
    begins_[0] = 0;
    return count;
  }

  void to_influences(int count) {
    if (view_.influence == kLinear) {
      for (int i = 0; i < count; i += kLanes<T>) {
        const Vec<T> distance = square_root<T>(load(coefficients_ + i));
        store(coefficients_ + i, linear_influence(distance, view_.reach));
      }
    } else if (view_.influence == kGaussian) {
      for (int i = 0; i < count; ++i)
        coefficients_[i] = gaussian_influence(coefficients_[i], view_.reach);
    } else {
      for (int i = 0; i < count; ++i) coefficients_[i] = 1;
    }
  }

  void modulate(int64_t g) {
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      for (int i = begins_[k]; i < begins_[k + 1]; ++i) {
        const int64_t query = view_.transposed() ? int64_t(listed_rows_[i]) : site_;
        modulated_[i] = coefficients_[i] * view_.modulations[view_.modulation_index(query, g, k)];
      }
    }
  }

  T slope_of(T squared, T influence) const {
    if (view_.influence == kLinear) return linear_slope(std::sqrt(squared), view_.reach);
    return view_.influence == kGaussian ? gaussian_slope(influence, view_.reach) : T(0);
  }

  const PointsView<T>& view_;
  const bool kernels_wanted_, classified_;
  int64_t site_ = 0, room_ = 0, used_ = 0;
  bool first_ = true, last_ = true;  // whether these are the site's first, its last sources
  int count_ = 0, padded_ = 0;
  uint32_t *rows_, *numbers_;  // of the loaded sources; 0, 1, 2, ...
  T* y_[3];                    // their positions relative to the query
  T *scratch_, *smallest_, *closest_;  // a number of every source; see classify
  T* positions_;                       // see set_group
  int32_t *begins_, *kernels_;         // see Pairs
  uint32_t *listed_rows_, *slots_;     // of every pair: row, number of the source
  T *coefficients_, *modulated_;       // see Pairs
  T* derivatives_[3];
};

}  // namespace kpdeform::KPDEFORM_ISA
