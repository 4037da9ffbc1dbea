// Packed clouds from tensors, with the checks that memory safety needs when an op is called
// directly.
#pragma once

#include "base/common.h"
#include "neighbors/cell_grid.h"

namespace kpdeform {

inline std::vector<int64_t> offsets_of(const Tensor& lengths, int64_t rows, const char* argument) {
  KPDEFORM_CHECK(lengths.is_cpu() && lengths.scalar_type() == ScalarType::Long &&
                     lengths.dim() == 1 && lengths.is_contiguous(),
                 argument, ": lengths must be contiguous (B,) int64 on the CPU");
  const int64_t* length = lengths.const_data_ptr<int64_t>();
  std::vector<int64_t> offsets{0};
  for (int64_t b = 0; b < lengths.numel(); ++b) {
    KPDEFORM_CHECK(length[b] >= 0 && length[b] <= rows, argument, ": length ", b, " is ",
                   length[b]);
    offsets.push_back(offsets.back() + length[b]);
  }
  KPDEFORM_CHECK(offsets.back() == rows, argument, ": lengths add up to ", offsets.back(),
                 " but there are ", rows, " rows");
  return offsets;
}

template <typename T>
Clouds<T> clouds_of(const Tensor& points, const Tensor& lengths, const char* argument) {
  KPDEFORM_CHECK(points.scalar_type() ==
                     (sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float),
                 argument, " must be float32 or float64, the same for queries and points");
  KPDEFORM_CHECK(points.is_cpu() && points.dim() == 2 &&
                     (points.size(1) == 2 || points.size(1) == 3) && points.is_contiguous(),
                 argument, " must be contiguous (N, 2) or (N, 3) on the CPU");
  return {points.const_data_ptr<T>(), static_cast<int>(points.size(1)),
          offsets_of(lengths, points.size(0), argument)};
}

}  // namespace kpdeform
