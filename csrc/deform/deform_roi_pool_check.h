// Checks that keep deform_roi_pool memory-safe on every device: they refuse whatever a kernel could
// not handle. kpdeform/ops/deform_roi_pool.py has the error messages for users; those here are for
// callers that bypass it.
#pragma once

#include <optional>
#include <vector>

#include "base/common.h"
#include "deform/deform_roi_pool.h"

namespace kpdeform {

constexpr int64_t kMostSamples = 1024;  // per bin, along each axis

inline void check_boxes(const Tensor& input, const Tensor& boxes,
                        const std::optional<Tensor>& shifts, const std::vector<int64_t>& bins,
                        int64_t samples, int64_t rule) {
  const auto in_range = [](int64_t number) { return number >= 1 && number <= 1 << 15; };
  const ScalarType dtype = input.scalar_type();
  KPDEFORM_CHECK(input.dim() == 6 && input.size(3) > 0 && input.size(4) > 0,
                 "input must be (B, H, W, Gh, Gw, C)");
  KPDEFORM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                     dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                 "input must be float32, float64, float16 or bfloat16");
  KPDEFORM_CHECK(bins.size() == 2 && in_range(bins[0]) && in_range(bins[1]),
                 "output_size must be two numbers from 1 to 32768");
  KPDEFORM_CHECK(samples >= 0 && samples <= kMostSamples, "samples must be 0 to ", kMostSamples,
                 ", got ", samples);
  KPDEFORM_CHECK(kAligned <= rule && rule <= kPositionSensitive, "rule must be 0 or 1");
  const ScalarType position = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  KPDEFORM_CHECK(boxes.dim() == 2 && boxes.size(1) == 5 && boxes.scalar_type() == position &&
                     boxes.get_device() == input.get_device(),
                 "boxes must be (R, 5), float64 for float64 input, else float32");
  if (shifts.has_value())
    KPDEFORM_CHECK(
        shifts->dim() == 5 && shifts->size(0) == boxes.size(0) && shifts->size(1) == bins[0] &&
            shifts->size(2) == bins[1] && shifts->size(3) > 0 &&
            input.size(5) % shifts->size(3) == 0 && shifts->size(4) == 2 &&
            shifts->scalar_type() == position && shifts->get_device() == input.get_device(),
        "shifts must be (R, ph, pw, OG, 2) of the boxes' dtype; OG must divide the channels");
}

}  // namespace kpdeform
