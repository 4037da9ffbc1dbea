// The interface of the engine (engine_isa.cpp) to the ops: plain structs, no tensors.
#pragma once

#include <cstdint>

#include "base/half.h"
#include "base/isa.h"
#include "engine/shapes.h"
#include "samplers/views.h"

namespace kpdeform {

// A range of channels that belong to one group of the view and to one group of the weight.
struct Span {
  int64_t group;    // group of the weight
  int64_t channel;  // first channel
  int64_t width;
};

// Calls body(span) for the spans that make up group g of the `groups` groups of a view.
template <typename Body>
void for_each_span(const DenseShape& shape, int64_t groups, int64_t g, const Body& body) {
  const int64_t size = shape.in_channels / groups, in = shape.group_in();
  for (int64_t c = g * size, end = c + size, stop; c < end; c = stop) {
    const int64_t group = c / in;
    stop = (group + 1) * in < end ? (group + 1) * in : end;
    body(Span{group, c, stop - c});
  }
}

// The gradients of offsets and modulations, to which the backward pass adds. They are laid out like
// the view's offsets and modulations; null if not requested.
template <typename T>
struct SiteGradients {
  T* offsets;
  T* modulations;
  bool any() const { return offsets != nullptr || modulations != nullptr; }
};

// ---- The engine, compiled once per instruction set.
namespace base {
#include "engine/functions.inc"
}
#ifdef KPDEFORM_X86
namespace avx2 {
#include "engine/functions.inc"
}
namespace avx512 {
#include "engine/functions.inc"

// sample_and_combine with the product on AMX tiles (has_tiles()): S is rounded to bfloat16, and its
// products are summed in float32. `packed` holds one matrix per group, each padded to whole tiles
// (engine/shapes.h) that pack_pairs has packed. Workspace: pairs_bytes.
template <typename View>
void sample_and_combine_pairs(const View& view, const DenseShape& shape, const BFloat16* features,
                              const BFloat16* packed, BFloat16* out, int64_t begin, int64_t end,
                              char* workspace);

template <typename View>
int64_t pairs_bytes(const View& view, const DenseShape& shape);

// Packs up to kPairColumns contiguous columns of a matrix.
void pack_pairs(const BFloat16* matrix, int64_t row_stride, int64_t terms, int64_t columns,
                BFloat16* packed);
}  // namespace avx512
#endif

}  // namespace kpdeform
