// The boxes sampler: it lists the pixels that a bin of a box samples, and their coefficients.
// Contract: deform_roi_pool.h sections 1-3.
//
// The samples of a bin form a grid, so the coefficient of a pixel is the product of a coefficient
// of its line and one of its column, each of which is a sum over samples.
#pragma once

#include <cstdint>

#include "samplers/boxes_math.h"
#include "samplers/sampler.h"
#include "samplers/views.h"

namespace kpdeform::KPDEFORM_ISA {

template <typename T>
class BoxesSampler {
 public:
  static constexpr int kDims = 2;

  BoxesSampler(const BoxesView<T>& view, bool, char* workspace) : view_(view) {
    Carver carver(workspace);
    for (int d = 0; d < 2; ++d) {
      axes_[d].size = d == 0 ? view.height : view.width;
      axes_[d].pixels = carver.template take<int64_t>(axes_[d].size);
      axes_[d].weights = carver.template take<T>(axes_[d].size);
      axes_[d].derivatives = carver.template take<T>(axes_[d].size);
    }
    const int64_t pairs = kPairs + view.width;
    kernels_ = carver.template take<int32_t>(pairs);
    rows_ = carver.template take<uint32_t>(pairs);
    coefficients_ = carver.template take<T>(pairs);
    for (T*& component : derivatives_) component = carver.template take<T>(pairs);
    used_ = carver.used();
    if (workspace == nullptr) return;
    for (int64_t i = 0; i < pairs; ++i) kernels_[i] = 0;
  }

  static int64_t bytes(const BoxesView<T>& view) {
    return BoxesSampler(view, false, nullptr).used_;
  }

  // Loads as many lines of pixels as give about kPairs pairs.
  int64_t open(int64_t site, int64_t begin) {
    site_ = site;
    const int64_t line = site / view_.bins[1], r = line / view_.bins[0];
    const int64_t bin[2] = {line % view_.bins[0], site % view_.bins[1]};
    const T* box = view_.boxes + r * 5;
    first_row_ = int64_t(box[0]) * view_.height * view_.width;
    cell_ = 0;
    for (int d = 0; d < 2; ++d) {
      Axis& axis = axes_[d];
      axis.bin = box[3 + d] / T(view_.bins[d]);
      axis.begin = box[1 + d] + T(bin[d]) * axis.bin;
      axis.samples = samples_of_bin(axis.bin, view_.samples);
      axis.most = 2 * axis.samples < T(axis.size) ? int64_t(2 * axis.samples) : axis.size;
      cell_ = cell_ * view_.cells[d] + bin[d] * view_.cells[d] / view_.bins[d];
    }
    first_line_ = begin;
    last_line_ = begin + kPairs / (axes_[1].most + 1) + 1;
    return last_line_ < axes_[0].most ? last_line_ : 0;
  }

  Pairs<T> list(int64_t g) {
    for (int d = 0; d < 2; ++d)
      place(axes_[d],
            view_.offsets == nullptr ? T(0) : view_.offsets[view_.offset_index(site_, g, 0, d)]);
    const Axis &y = axes_[0], &x = axes_[1];
    const T counted = y.counted * x.counted, share = counted > T(0) ? T(1) / counted : T(0);
    int count = 0;
    for (int64_t i = first_line_; i < y.count && i < last_line_; ++i) {
      const int64_t first = first_row_ + y.pixels[i] * view_.width;
      for (int64_t j = 0; j < x.count; ++j, ++count) {
        rows_[count] = uint32_t((first + x.pixels[j]) * view_.cells[0] * view_.cells[1] + cell_);
        coefficients_[count] = share * y.weights[i] * x.weights[j];
        derivatives_[0][count] = share * y.derivatives[i] * x.weights[j];
        derivatives_[1][count] = share * y.weights[i] * x.derivatives[j];
      }
    }
    begins_[1] = count;
    return {count,
            begins_,
            kernels_,
            rows_,
            coefficients_,
            coefficients_,
            {derivatives_[0], derivatives_[1], nullptr}};
  }

  Pairs<T> list_derivatives(int64_t g) { return list(g); }

 private:
  static constexpr int64_t kPairs = 4096;

  // One axis of a bin: the pixels that its samples touch, with the sums of their weights and of the
  // derivatives of their weights.
  struct Axis {
    int64_t size, most;     // number of pixels; the most pixels that the samples can touch
    T begin, bin, samples;  // of the bin before its shift
    T counted;              // number of samples that count in the mean
    int64_t count;
    int64_t* pixels;
    T *weights, *derivatives;
  };

  // Computes the pixels and weights of the samples of a bin that is moved by `shift`.
  void place(Axis& axis, T shift) const {
    const bool aligned = view_.rule == kAligned;
    const T step = axis.bin / axis.samples;
    const T start = axis.begin + shift + (aligned ? step / 2 : T(0));
    axis.counted = aligned ? axis.samples : T(0);
    axis.count = 0;
    if (!(step - step == T(0) && start - start == T(0))) return;  // not finite
    for (int64_t i = 0; i < axis.size; ++i) axis.weights[i] = axis.derivatives[i] = 0;
    int64_t first = axis.size, last = -1;
    const SampleBounds<T> bounds = sample_bounds<T>(view_.rule, axis.size);
    const SampleRange range = samples_inside(start, step, axis.samples, bounds);
    for (double s = range.first; s < range.last; ++s) {
      const T position = start + T(s) * step;
      if (!bounds.contain(position)) continue;
      if (!aligned) axis.counted += 1;
      const auto [held, moves] = hold(position, axis.size);
      const int64_t pixel = int64_t(held), next = pixel + moves;
      axis.weights[next] += held - T(pixel);
      axis.weights[pixel] += T(1) - (held - T(pixel));
      axis.derivatives[next] += T(moves);
      axis.derivatives[pixel] -= T(moves);
      first = pixel < first ? pixel : first;
      last = next > last ? next : last;
    }
    for (int64_t i = first; i <= last; ++i) {
      if (axis.weights[i] == T(0) && axis.derivatives[i] == T(0)) continue;
      axis.pixels[axis.count] = i;
      axis.weights[axis.count] = axis.weights[i];
      axis.derivatives[axis.count++] = axis.derivatives[i];
    }
  }

  const BoxesView<T>& view_;
  Axis axes_[2] = {};  // y, x
  int64_t site_ = 0, first_row_ = 0, cell_ = 0, first_line_ = 0, last_line_ = 0, used_ = 0;
  int32_t begins_[2] = {};  // see Pairs; so are the members that follow
  int32_t* kernels_;
  uint32_t* rows_;
  T *coefficients_, *derivatives_[2];
};

}  // namespace kpdeform::KPDEFORM_ISA
