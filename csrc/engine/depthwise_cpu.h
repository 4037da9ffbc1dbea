// The depthwise combiner on the CPU: memory and division among threads, for the inputs ("view",
// samplers/views.h) of any sampler. The arithmetic is in engine_isa.cpp.
#pragma once

#include <algorithm>

#include "base/common.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "engine/dense_cpu.h"
#include "engine/engine.h"

namespace kpdeform {

// Computes out (sites, C) for sites [first, last), with weight (K, C).
template <typename View, typename F, typename T>
void convolve_depthwise(const View& view, int64_t channels, const F* features, const T* weight,
                        F* out, int64_t first, int64_t last) {
  const int64_t bytes = KPDEFORM_DISPATCH(depthwise_bytes, view, channels);
  parallel_chunks(last - first, kGrain, [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    KPDEFORM_DISPATCH(combine_depthwise, view, channels, features, weight, out, first + begin,
                      first + end, workspace.get());
  });
}

// Adds to the gradients of weight, offsets and modulations that are not null. The gradient of the
// weight is summed over fixed shares of the sites, so its bits do not depend on the number of
// threads.
template <typename View, typename F, typename T>
void sites_backward_depthwise(const View& view, int64_t num_sites, int64_t channels,
                              const F* features, const F* grad, const T* weight, T* grad_weight,
                              const SiteGradients<T>& gradients) {
  constexpr int64_t kMostShares = 32, kFewestSites = 256;
  const int64_t size = int64_t(view.num_kernel_points) * channels;
  const int64_t shares = std::clamp<int64_t>(num_sites / kFewestSites, 1, kMostShares);
  const int64_t bytes = KPDEFORM_DISPATCH(depthwise_bytes, view, channels);
  const Scratch<T> sums(grad_weight == nullptr ? 0 : shares * size);
  parallel_chunks(shares, 1, [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(bytes);
    for (int64_t share = begin; share < end; ++share) {
      T* sum = grad_weight == nullptr ? nullptr : sums.get() + share * size;
      if (sum != nullptr) std::fill_n(sum, size, T(0));
      KPDEFORM_DISPATCH(depthwise_backward, view, channels, features, grad, weight, sum, gradients,
                        num_sites * share / shares, num_sites * (share + 1) / shares,
                        workspace.get());
    }
  });
  if (grad_weight == nullptr) return;
  parallel_chunks(size, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t share = 0; share < shares; ++share)
      for (int64_t i = begin; i < end; ++i) grad_weight[i] += sums.get()[share * size + i];
  });
}

}  // namespace kpdeform
