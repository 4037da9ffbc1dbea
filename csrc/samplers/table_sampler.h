// The table sampler: reads the pairs of another sampler from a table that lists them by row
// (TableView). With it, the gradient of features is the same computation as the forward pass.
#pragma once

#include <cstdint>

#include "samplers/sampler.h"
#include "samplers/views.h"

namespace kpdeform::KPDEFORM_ISA {

template <typename T>
class TableSampler {
 public:
  TableSampler(const TableView<T>& view, bool, char* workspace) : view_(view) {
    Carver carver(workspace);
    begins_ = carver.template take<int32_t>(view.num_kernel_points + 1);
    used_ = carver.used();
  }

  static int64_t bytes(const TableView<T>& view) {
    return TableSampler(view, false, nullptr).used_;
  }

  // Loads up to kPairs pairs of every group.
  int64_t open(int64_t site, int64_t begin) {
    const int64_t kernels = view_.num_kernel_points;
    starts_ = view_.starts + (site - view_.first_site) * view_.offset_groups * kernels;
    begin_ = begin;
    int64_t most = 0;
    for (int64_t g = 0; g < view_.offset_groups; ++g) {
      const int64_t count = starts_[(g + 1) * kernels] - starts_[g * kernels];
      most = count > most ? count : most;
    }
    return begin + kPairs < most ? begin + kPairs : 0;
  }

  Pairs<T> list(int64_t g) {
    const int kernels = view_.num_kernel_points;
    const int64_t* starts = starts_ + (view_.only_group >= 0 ? view_.only_group : g) * kernels;
    const int64_t first = starts[0] + begin_;
    for (int k = 0; k <= kernels; ++k) {
      const int64_t begin = starts[k] - first;
      begins_[k] = int32_t(begin < 0 ? 0 : begin < kPairs ? begin : kPairs);
    }
    const T* coefficients = view_.coefficients + first;
    return {begins_[kernels],
            begins_,
            view_.kernels == nullptr ? nullptr : view_.kernels + first,
            view_.rows + first,
            coefficients,
            coefficients,
            {}};
  }

 private:
  static constexpr int64_t kPairs = 1 << 20;

  const TableView<T>& view_;
  const int64_t* starts_ = nullptr;
  int64_t begin_ = 0, used_ = 0;
  int32_t* begins_;
};

}  // namespace kpdeform::KPDEFORM_ISA
