// The table of a view's pairs on the CPU: memory and threads. The gradient of features is the
// forward pass over it.
#pragma once

#include <algorithm>

#include "common.h"
#include "neighbors/parallel.h"
#include "sampling/sampling.h"
#include "scratch.h"

namespace kpdeform {

// Calls body(table, first, last) with tables of the rows [first, last), which together cover all.
// Every thread scans the sites that may take the rows of its share, so that there are no atomics,
// and the same table for any number of threads.
template <typename View, typename Body>
void for_each_table(const View& view, bool kernels_wanted, const Body& body) {
  using T = typename View::Number;
  constexpr int64_t kMostStarts = 1 << 20;
  const int64_t keys = view.num_groups() * view.num_kernel_points;
  const int64_t step = std::max<int64_t>(kMostStarts / keys, 1);
  const int64_t bytes = KPDEFORM_DISPATCH(listing_bytes, view);
  const auto for_each_share = [&](int64_t low, int64_t high, const auto& run) {
    const int64_t parts = num_parts(high - low, 256);
    parallel_chunks(parts, 1, [&](int64_t begin, int64_t end) {
      const Scratch<char> workspace(bytes);
      const int64_t first = low + (high - low) * begin / parts;
      const int64_t last = low + (high - low) * end / parts;
      run(first, last, view.first_site(first), view.last_site(last), workspace.get());
    });
  };
  for (int64_t low = 0; low < view.num_rows(); low += step) {
    const int64_t high = std::min(low + step, view.num_rows()), size = (high - low) * keys;
    // Two to the right at first; listing moves every start one to the left.
    const Scratch<int64_t> starts(size + 2);
    std::fill_n(starts.get(), size + 2, 0);
    for_each_share(low, high,
                   [&](int64_t first, int64_t last, int64_t begin, int64_t end, char* workspace) {
                     KPDEFORM_DISPATCH(count_pairs, view, first, last, begin, end,
                                       starts.get() + 2 + (first - low) * keys, workspace);
                   });
    for (int64_t i = 2; i < size + 2; ++i) starts.get()[i] += starts.get()[i - 1];
    const int64_t count = starts.get()[size + 1];
    const Scratch<uint32_t> sites(count);
    const Scratch<int32_t> kernels(kernels_wanted ? count : 0);
    const Scratch<T> coefficients(count);
    for_each_share(
        low, high, [&](int64_t first, int64_t last, int64_t begin, int64_t end, char* workspace) {
          KPDEFORM_DISPATCH(
              list_pairs, view, first, last, begin, end, starts.get() + 1 + (first - low) * keys,
              sites.get(), kernels_wanted ? kernels.get() : nullptr, coefficients.get(), workspace);
        });
    const TableView<T> table{low,
                             -1,
                             view.num_groups(),
                             1,
                             view.num_kernel_points,
                             starts.get(),
                             sites.get(),
                             kernels_wanted ? kernels.get() : nullptr,
                             coefficients.get()};
    body(table, low, high);
  }
}

}  // namespace kpdeform
