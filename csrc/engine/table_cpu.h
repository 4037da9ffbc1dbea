// Memory and threads for the table of a view's pairs on the CPU. The gradient of features is the
// forward pass over this table.
#pragma once

#include <algorithm>

#include "base/common.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "engine/engine.h"

namespace kpdeform {

// The range of rows that each block of sites samples. A thread uses it to skip blocks that sample
// none of the thread's own rows.
template <typename View>
class SiteBlocks {
 public:
  // If there is at most one share of the rows per image, the image of a site is enough to decide,
  // and no ranges are computed.
  SiteBlocks(const View& view, int64_t shares)
      : view_(view),
        count_(shares > view.images ? (view.num_sites() + kSize - 1) / kSize : 0),
        lowest_(count_),
        highest_(count_) {
    const int64_t bytes = KPDEFORM_DISPATCH(listing_bytes, view);
    parallel_chunks(count_, 16, [&](int64_t begin, int64_t end) {
      const Scratch<char> workspace(bytes);
      KPDEFORM_DISPATCH(row_ranges, view, kSize, begin, end, lowest_.get(), highest_.get(),
                        workspace.get());
    });
  }

  // Calls run(begin, end), in order, for ranges of sites that together contain all sites that may
  // sample rows of [first, last).
  template <typename Run>
  void for_each_run(int64_t first, int64_t last, const Run& run) const {
    if (count_ == 0) return run(view_.first_site(first), view_.last_site(last));
    for (int64_t begin = 0, end; begin < count_; begin = end + 1) {
      for (end = begin; end < count_ && takes(end, first, last);) ++end;
      if (begin < end) run(begin * kSize, std::min(end * kSize, view_.num_sites()));
    }
  }

 private:
  static constexpr int64_t kSize = 64;

  bool takes(int64_t block, int64_t first, int64_t last) const {
    return int64_t(lowest_.get()[block]) < last && int64_t(highest_.get()[block]) >= first;
  }

  const View& view_;
  int64_t count_;  // number of blocks; 0 if only the image decides
  Scratch<uint32_t> lowest_, highest_;
};

// Calls body(table, first, last) with tables of the rows [first, last), which together cover all
// rows. Every thread lists the pairs of its own share of the rows, so no atomics are needed and the
// table is the same for any number of threads.
template <typename View, typename Body>
void for_each_table(const View& view, bool kernels_wanted, const Body& body) {
  using T = typename View::Number;
  constexpr int64_t kMostStarts = 1 << 20, kFewestRows = 256;
  const int64_t keys = view.num_groups() * view.num_kernel_points;
  const int64_t step = std::max<int64_t>(kMostStarts / keys, 1);
  const int64_t bytes = KPDEFORM_DISPATCH(listing_bytes, view);
  const int64_t shares =
      (view.num_rows() + step - 1) / step * num_parts(std::min(step, view.num_rows()), kFewestRows);
  const SiteBlocks<View> blocks(view, shares);
  // Calls run(first, last, begin, end, workspace) with the rows [first, last) of every thread and
  // the sites [begin, end) that may sample them.
  const auto for_each_share = [&](int64_t low, int64_t high, const auto& run) {
    const int64_t parts = num_parts(high - low, kFewestRows);
    parallel_chunks(parts, 1, [&](int64_t begin, int64_t end) {
      const Scratch<char> workspace(bytes);
      const int64_t first = low + (high - low) * begin / parts;
      const int64_t last = low + (high - low) * end / parts;
      blocks.for_each_run(first, last, [&](int64_t from, int64_t to) {
        run(first, last, from, to, workspace.get());
      });
    });
  };
  for (int64_t low = 0; low < view.num_rows(); low += step) {
    const int64_t high = std::min(low + step, view.num_rows()), size = (high - low) * keys;
    // Counts go to index + 2, so that after the prefix sum `starts + 1` holds the write positions.
    // list_pairs advances these, after which starts[i] is the position where key i begins.
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
