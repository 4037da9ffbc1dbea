// Memory and threads of the dense combiner on the CPU, for any view. The arithmetic is in
// engine_isa.cpp.
#pragma once

#include <algorithm>
#include <vector>

#include "base/common.h"
#include "base/scratch.h"
#include "engine/engine.h"

namespace kpdeform {

constexpr int64_t kGrain = 32;                // fewest sites worth a thread
constexpr int64_t kSuperTileBytes = 4 << 20;  // S of a super tile, shared by all threads

// One packed matrix per group. The matrix of group g has `blocks` blocks of `terms` rows; element
// (p, c) of block k stands at weight[g * group_stride + k * block_stride + p * row_stride + c *
// column_stride].
struct Packing {
  int64_t groups, group_stride, blocks, block_stride, terms, row_stride, columns, column_stride;
};

template <typename T>
Scratch<T> pack_groups(const T* weight, const Packing& layout) {
  const int64_t width = KPDEFORM_DISPATCH(panel_columns<T>);
  const int64_t panels = (layout.columns + width - 1) / width;
  const int64_t panel_size = layout.blocks * layout.terms * width;
  Scratch<T> packed(layout.groups * panels * panel_size);
  const int64_t rows = layout.groups * panels * layout.blocks;
  parallel_chunks(rows, std::max<int64_t>(1, (1 << 14) / (layout.terms * width)),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      const int64_t k = i % layout.blocks, panel = i / layout.blocks % panels;
                      const int64_t g = i / layout.blocks / panels;
                      KPDEFORM_DISPATCH(pack,
                                        weight + g * layout.group_stride + k * layout.block_stride +
                                            panel * width * layout.column_stride,
                                        layout.row_stride, layout.column_stride, layout.terms,
                                        std::min(width, layout.columns - panel * width),
                                        packed.get() + (g * panels + panel) * panel_size +
                                            k * layout.terms * width);
                    }
                  });
  return packed;
}

// out (sites, O) for sites [begin, end).
template <typename View, typename F, typename T>
void convolve(const View& view, const DenseShape& shape, const F* features, const T* packed, F* out,
              int64_t first, int64_t last) {
  const int64_t bytes = KPDEFORM_DISPATCH(dense_bytes, view, shape);
  parallel_chunks(last - first, kGrain, [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    KPDEFORM_DISPATCH(sample_and_combine, view, shape, features, packed, out, first + begin,
                      first + end, workspace.get());
  });
}

// weight (K, C/G, O) as it multiplies S.
template <typename T>
Scratch<T> pack_forward(const DenseShape& shape, const T* weight) {
  return pack_groups(weight, {shape.groups, shape.group_out(), 1, 0, shape.terms(),
                              shape.out_channels, shape.group_out(), 1});
}

// The same as it takes the gradient of the result to the gradient of S.
template <typename T>
Scratch<T> pack_backward(const DenseShape& shape, const T* weight) {
  return pack_groups(weight, {shape.groups, shape.group_out(), 1, 0, shape.group_out(), 1,
                              shape.terms(), shape.out_channels});
}

// The gradient of features for sites [first, last) of a transposed view: the convolution of grad
// (M, O) with the weight's channels swapped. Where groups of channels deform on their own, there is
// one for each.
template <typename View, typename F, typename T>
void features_backward(View view, const DenseShape& shape, const F* grad, const T* weight,
                       F* grad_features, int64_t first, int64_t last) {
  const int64_t kernels = shape.num_kernel_points, in = shape.group_in(), out = shape.group_out();
  const auto pack = [&](const T* from, int64_t groups, int64_t columns) {
    return pack_groups(
        from, {groups, out, kernels, in * shape.out_channels, out, 1, columns, shape.out_channels});
  };
  const int64_t groups = view.num_groups();
  if (groups == 1) {
    const DenseShape swapped{kernels,      shape.out_channels, shape.in_channels,
                             shape.groups, shape.out_stride,   shape.in_stride};
    const Scratch<T> packed = pack(weight, shape.groups, in);
    return convolve(view, swapped, grad, packed.get(), grad_features, first, last);
  }
  for (int64_t g = 0; g < groups; ++g) {
    view.only_group = g;
    for_each_span(shape, groups, g, [&](const Span& span) {
      const DenseShape swapped{kernels, out, span.width, 1, shape.out_stride, shape.in_stride};
      const int64_t inside = span.channel - span.group * in;
      const Scratch<T> packed =
          pack(weight + inside * shape.out_channels + span.group * out, 1, span.width);
      convolve(view, swapped, grad + span.group * out, packed.get(), grad_features + span.channel,
               first, last);
    });
  }
}

// Adds to the gradients of weight, offsets and modulations, those that are not null, super tile by
// super tile: all threads sample its sites, then share the rows of the weight.
template <typename View, typename F, typename T>
void sites_backward(const View& view, int64_t num_sites, const DenseShape& shape, const F* features,
                    const F* grad, const T* weight, T* grad_weight,
                    const SiteGradients<T>& gradients) {
  const Scratch<T> packed = gradients.any() ? pack_backward(shape, weight) : Scratch<T>(0);
  const int64_t bytes = KPDEFORM_DISPATCH(dense_bytes, view, shape);
  const int64_t super_sites =
      std::clamp<int64_t>(kSuperTileBytes / int64_t(sizeof(T)) / shape.row(), 64, 1024);
  const int64_t panel = KPDEFORM_DISPATCH(panel_columns<T>);
  const int64_t columns = (shape.group_out() + panel - 1) / panel * panel;
  const bool wanted = grad_weight != nullptr;
  const Scratch<T> sampled(wanted ? super_sites * shape.row() : 0);
  const Scratch<T> padded(wanted ? super_sites * columns * shape.groups : 0);
  for (int64_t first = 0; first < num_sites; first += super_sites) {
    const int64_t sites = std::min(super_sites, num_sites - first);
    parallel_chunks(sites, kGrain, [&](int64_t begin, int64_t end) {
      const Scratch<char> workspace(bytes);
      KPDEFORM_DISPATCH(sample_backward, view, shape, features, grad, packed.get(), gradients,
                        first + begin, first + end,
                        wanted ? sampled.get() + begin * shape.row() : nullptr, workspace.get());
      if (wanted)
        KPDEFORM_DISPATCH(pad_groups, grad + (first + begin) * shape.out_channels, end - begin,
                          shape.out_channels, shape.groups,
                          padded.get() + begin * shape.groups * columns);
    });
    if (!wanted) continue;
    parallel_chunks(shape.terms(), 48, [&](int64_t begin, int64_t end) {
      for (int64_t g = 0; g < shape.groups; ++g) {
        KPDEFORM_DISPATCH(accumulate_outer, sampled.get() + g * shape.terms() + begin, shape.row(),
                          padded.get() + g * columns, columns * shape.groups, sites, end - begin,
                          shape.group_out(),
                          grad_weight + begin * shape.out_channels + g * shape.group_out(),
                          shape.out_channels);
      }
    });
  }
}

}  // namespace kpdeform
