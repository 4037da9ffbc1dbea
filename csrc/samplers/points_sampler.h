// The points sampler: it lists the rows of the features that contribute to a kernel point of a
// site, and their coefficients. Contract: kpconv.h sections 1-5.
#pragma once

#include <cstdint>

#include "base/simd.h"
#include "samplers/sampler.h"
#include "samplers/views.h"

namespace kpdeform::KPDEFORM_ISA {

// kPerSource: the kernel points have a different position for every source. This is so for a
// deformable kernel in the transposed view. Otherwise they have one position per site.
template <typename T, bool kPerSource>
class PointsSampler {
 public:
  static constexpr int kDims = 3;  // derivatives of a coefficient; the last is 0 for 2D clouds

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

  // Loads up to kSources sources of a site from number `begin` on. Returns the number of the next
  // source to load, or 0 if none is left.
  int64_t open(int64_t site, int64_t begin) {
    site_ = site;
    const int64_t rest = view_.transposed() ? load_transposed(begin) : load_row(begin);
    first_ = begin == 0;
    last_ = rest == 0;
    pad();
    return rest;
  }

  int count() const { return count_; }

  // Returns the pairs of group g. Also writes view.distances unless it is null.
  Pairs<T> list(int64_t g) {
    select(g);
    if (view_.distances != nullptr && (g == 0 || view_.offset_groups > 1)) leave_distances(g);
    return list_influences(g, false);
  }

  // The same, with the derivatives of the coefficients by the offset of the kernel point.
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
      const T derivative = derivative_of(squared, coefficients_[i]);
      for (int d = 0; d < 3; ++d) derivatives_[d][i] = derivative * dy[d];
    }
    return pairs;
  }

  // Writes the smallest squared distance of every kernel point of the selected group g to the
  // sources of the site, or 0 if the site has no source.
  void leave_distances(int64_t g) {
    T* distances = view_.distances + view_.distance_index(site_, g);
    for (int k = 0; k < view_.num_kernel_points; ++k) {
      Vec<T> least = broadcast(first_ ? T(__builtin_inf()) : distances[k]);
      for_each_vector(k, [&](int, Vec<T> squared) { least = squared < least ? squared : least; });
      const T smallest = horizontal_min<T>(least);
      distances[k] = last_ && !(smallest < T(__builtin_inf())) ? T(0) : smallest;
    }
  }

  // The loaded source that is nearest to kernel point k of the selected group, the first one if
  // there are several: its squared distance, infinity if there is no source, and its position
  // relative to the kernel point.
  struct Nearest {
    T squared;
    T difference[3];
  };
  Nearest nearest(int k) {
    Vec<T> least = broadcast(T(__builtin_inf()));
    for_each_vector(k, [&](int j, Vec<T> squared) {
      store(scratch_ + j, squared);
      least = squared < least ? squared : least;
    });
    Nearest result{horizontal_min<T>(least), {}};
    if (!(result.squared < T(__builtin_inf()))) return result;
    int at = 0;
    LaneMask found = 0;
    for (least = broadcast(result.squared); found == 0; at += kLanes<T>) {
      const Vec<T> squared = load(scratch_ + at);  // find the lanes that are neither larger nor NaN
      found = below<T>(squared, broadcast(T(__builtin_inf()))) & ~below<T>(least, squared);
    }
    at += __builtin_ctz(found) - kLanes<T>;
    for (int d = 0; d < view_.dim; ++d) result.difference[d] = y_[d][at] - position(k, d);
    return result;
  }

  // Computes the positions of the kernel points for group g: (K, 3), or (K, D, room_) if they
  // differ between sources.
  void select(int64_t g) {
    if (view_.offsets != nullptr) {
      if constexpr (kPerSource) {
        place_kernels(g);
      } else {
        place_kernel(view_.offsets + view_.offset_index(site_, g, 0, 0));
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
    count_ = keep_rows(row + begin, end - begin, view_.num_points, rows_);
    place_sources(view_.points, view_.queries + site_ * view_.dim, T(1));
    return end < view_.width ? end : 0;
  }

  int64_t load_transposed(int64_t begin) {
    return view_.wide_members ? load_members(static_cast<const int64_t*>(view_.members), begin)
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
    place_sources(view_.queries, view_.points + site_ * view_.dim, T(-1));
    return end < total ? end : 0;
  }

  // Computes y = point - query. `sign` is -1 if the sources are the queries.
  void place_sources(const T* sources, const T* site, T sign) {
    const int count = count_, dim = view_.dim;  // local copies, not aliased by stores
    const uint32_t* rows = rows_;
    T *y0 = y_[0], *y1 = y_[1], *y2 = y_[2];
    for (int j = 0; j < count; ++j) {
      const T* source = sources + int64_t(rows[j]) * dim;
      y0[j] = source[0];
      y1[j] = source[1];
      y2[j] = dim == 3 ? source[2] : T(0);
    }
    const Vec<T> s0 = broadcast(site[0]), s1 = broadcast(site[1]);
    const Vec<T> s2 = broadcast(dim == 3 ? site[2] : T(0));
    for (int j = 0; j < count; j += kLanes<T>) {  // pad() replaces what lies beyond the sources
      store(y0 + j, sign * (load(y0 + j) - s0));
      store(y1 + j, sign * (load(y1 + j) - s1));
      store(y2 + j, sign * (load(y2 + j) - s2));
    }
  }

  // Pads the last vector with sources at infinite distance, which are within reach of nothing.
  void pad() {
    padded_ = (count_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    for (int j = count_; j < padded_; ++j) y_[0][j] = y_[1][j] = y_[2][j] = T(__builtin_inf());
    for (int j = count_; j < count_ + 4; ++j) rows_[j] = 0;
  }

  // Computes the positions of the kernel points for every source, four sources at a time.
  void place_kernels(int64_t g) {
    typedef T Quad __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
    const int64_t numbers = int64_t(view_.num_kernel_points) * view_.dim, room = room_;
    for (int j = 0; j < count_; j += 4) {  // padding entries have row 0
      const T* offset[4];
      for (int i = 0; i < 4; ++i)
        offset[i] = view_.offsets + view_.offset_index(rows_[j + i], g, 0, 0);
      T* target = positions_ + j;
      for (int64_t i = 0; i < numbers; ++i, target += room) {
        const Quad moved = {offset[0][i], offset[1][i], offset[2][i], offset[3][i]};
        *reinterpret_cast<Quad*>(target) = moved + view_.kernel_points[i];
      }
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

  // Calls body(j, squared distances of kernel point k to sources j, j + 1, ...) for all sources and
  // the padding, vector by vector.
  template <typename Body>
  void for_each_vector(int k, const Body& body) const {
    const T *y0 = y_[0], *y1 = y_[1], *y2 = y_[2];  // local copies, not aliased by stores in body
    const int padded = padded_;
    if constexpr (kPerSource) {
      const T* x = positions_ + int64_t(k) * view_.dim * room_;
      const bool flat = view_.dim == 2;
      for (int j = 0; j < padded; j += kLanes<T>) {
        const Vec<T> d0 = load(y0 + j) - load(x + j), d1 = load(y1 + j) - load(x + room_ + j);
        const Vec<T> d2 = flat ? Vec<T>{} : load(y2 + j) - load(x + 2 * room_ + j);
        body(j, d0 * d0 + d1 * d1 + d2 * d2);
      }
    } else {
      const Vec<T> x0 = broadcast(position(k, 0)), x1 = broadcast(position(k, 1)),
                   x2 = broadcast(position(k, 2));
      for (int j = 0; j < padded; j += kLanes<T>) {
        const Vec<T> d0 = load(y0 + j) - x0, d1 = load(y1 + j) - x1, d2 = load(y2 + j) - x2;
        body(j, d0 * d0 + d1 * d1 + d2 * d2);
      }
    }
  }

  // Computes, for every source, the smallest squared distance to a kernel point and the number of
  // that kernel point.
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

  // Lists the pairs within reach first and computes influences only for these, because only about
  // one pair in eight is within reach.
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
    if (prunes(view_)) return list_all_as<true, true>();
    return slots_wanted || kernels_wanted_ ? list_all_as<true, false>()
                                           : list_all_as<false, false>();
  }

  template <bool kDetails, bool kPruned>
  int list_all_as() {
    const Vec<T> limit = broadcast(this->limit()), reach = broadcast(view_.reach.squared_sigma);
    const int kernels = view_.num_kernel_points;  // local copies, not aliased by stores
    const uint32_t *rows = rows_, *numbers = numbers_;
    const T* smallest = smallest_;
    T* coefficients = coefficients_;
    uint32_t *listed_rows = listed_rows_, *slots = slots_;
    int32_t *begins = begins_, *listed_kernels = kernels_;
    int count = 0;
    for (int k = 0; k < kernels; ++k) {
      begins[k] = count;
      for_each_vector(k, [&](int j, Vec<T> squared) {
        LaneMask keep = below<T>(squared, limit);
        if constexpr (kPruned) keep &= below<T>(load(smallest + j), reach);
        compress<T>(squared, keep, coefficients + count);
        compress_words<T>(rows + j, keep, listed_rows + count);
        if constexpr (kDetails) {
          compress_words<T>(numbers + j, keep, slots + count);
          for (int lane = 0; lane < kLanes<T>; ++lane) listed_kernels[count + lane] = k;
        }
        count += __builtin_popcount(keep);
      });
    }
    begins[kernels] = count;
    return count;
  }

  // Lists one pair per source within reach, with a counting sort by kernel point.
  int list_closest() {
    const T limit = prunes(view_) ? view_.reach.squared_sigma : this->limit();
    for (int k = 0; k <= view_.num_kernel_points; ++k) begins_[k] = 0;
    for (int j = 0; j < count_; ++j) begins_[int(closest_[j])] += smallest_[j] < limit;
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

  T derivative_of(T squared, T influence) const {
    if (view_.influence == kLinear) return linear_derivative(std::sqrt(squared), view_.reach);
    return view_.influence == kGaussian ? gaussian_derivative(influence, view_.reach) : T(0);
  }

  const PointsView<T>& view_;
  const bool kernels_wanted_, classified_;
  int64_t site_ = 0, room_ = 0, used_ = 0;
  bool first_ = true, last_ = true;  // whether the site's first or last sources are loaded
  int count_ = 0, padded_ = 0;
  uint32_t *rows_, *numbers_;          // rows of the loaded sources; the numbers 0, 1, 2, ...
  T* y_[3];                            // for every source: point - query
  T *scratch_, *smallest_, *closest_;  // one value per source; see nearest and classify
  T* positions_;                       // see select
  int32_t *begins_, *kernels_;         // see Pairs
  uint32_t *listed_rows_, *slots_;     // for every pair: row of the source, number of the source
  T *coefficients_, *modulated_;       // see Pairs
  T* derivatives_[3];
};

}  // namespace kpdeform::KPDEFORM_ISA
