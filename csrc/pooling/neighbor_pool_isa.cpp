#include "base/simd.h"
#include "pooling/neighbor_pool.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

using Floats = Vec<float>;
using Slots = LaneNumbers<float>;
constexpr int kWidth = kLanes<float>;

// Computes the maxima of kVectors * kWidth channels, which stay in registers during the loop over
// rows.
template <int kVectors>
inline void max_of_columns(const float* features, const int64_t* rows, const int32_t* slots,
                           int64_t count, int64_t channels, float* best, int32_t* slot) {
  Floats largest[kVectors];
  Slots taken[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    largest[v] = load(features + rows[0] * channels + v * kWidth);
    taken[v] = slots[0] - Slots{};
  }
  for (int64_t i = 1; i < count; ++i) {
    const float* row = features + rows[i] * channels;
    for (int v = 0; v < kVectors; ++v) {
      const Floats value = load(row + v * kWidth);
      const Slots larger = (value > largest[v]) | (value != value);  // NaN wins
      largest[v] = larger ? value : largest[v];
      taken[v] = larger ? slots[i] - Slots{} : taken[v];
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store(best + v * kWidth, largest[v]);
    __builtin_memcpy(slot + v * kWidth, &taken[v], sizeof(Slots));
  }
}

inline void max_of_column(const float* features, const int64_t* rows, const int32_t* slots,
                          int64_t count, int64_t channels, float* best, int32_t* slot) {
  *best = features[rows[0] * channels];
  *slot = slots[0];
  for (int64_t i = 1; i < count; ++i) {
    const float value = features[rows[i] * channels];
    if (!(value > *best || value != value)) continue;
    *best = value;
    *slot = slots[i];
  }
}

}  // namespace

void max_of_rows(const float* features, const int64_t* rows, const int32_t* slots, int64_t count,
                 int64_t channels, float* best, int32_t* slot) {
  int64_t c = 0;
  for (; c + 4 * kWidth <= channels; c += 4 * kWidth)
    max_of_columns<4>(features + c, rows, slots, count, channels, best + c, slot + c);
  for (; c + kWidth <= channels; c += kWidth)
    max_of_columns<1>(features + c, rows, slots, count, channels, best + c, slot + c);
  for (; c < channels; ++c)
    max_of_column(features + c, rows, slots, count, channels, best + c, slot + c);
}

}  // namespace kpdeform::KPDEFORM_ISA
