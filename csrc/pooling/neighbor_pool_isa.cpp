#include "base/elements.h"
#include "base/simd.h"
#include "pooling/neighbor_pool.h"

namespace kpdeform::KPDEFORM_ISA {
namespace {

using Floats = Vec<float>;
using Slots = LaneNumbers<float>;
constexpr int kWidth = kLanes<float>;

// Computes the maxima of kVectors * kWidth channels, which stay in registers during the loop over
// rows.
template <int kVectors, typename F>
inline void max_of_columns(const F* features, const int64_t* rows, const int32_t* slots,
                           int64_t count, int64_t channels, float* best, int32_t* slot) {
  Floats largest[kVectors];
  Slots taken[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    largest[v] = load_as<float>(features + rows[0] * channels + v * kWidth);
    taken[v] = slots[0] - Slots{};
  }
  for (int64_t i = 1; i < count; ++i) {
    const F* row = features + rows[i] * channels;
    for (int v = 0; v < kVectors; ++v) {
      const Floats value = load_as<float>(row + v * kWidth);
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

// Computes the maxima of the last channels, fewer than a vector.
template <typename F>
inline void max_of_rest(const F* features, const int64_t* rows, const int32_t* slots, int64_t count,
                        int64_t channels, int64_t width, float* best, int32_t* slot) {
  Floats largest = load_first_as<float>(features + rows[0] * channels, width);
  Slots taken = slots[0] - Slots{};
  for (int64_t i = 1; i < count; ++i) {
    const Floats value = load_first_as<float>(features + rows[i] * channels, width);
    const Slots larger = (value > largest) | (value != value);  // NaN wins
    largest = larger ? value : largest;
    taken = larger ? slots[i] - Slots{} : taken;
  }
  for (int64_t lane = 0; lane < width; ++lane) {
    best[lane] = largest[lane];
    slot[lane] = taken[lane];
  }
}

template <typename F>
inline void max_of(const F* features, const int64_t* rows, const int32_t* slots, int64_t count,
                   int64_t channels, float* best, int32_t* slot) {
  int64_t c = 0;
  for (; c + 4 * kWidth <= channels; c += 4 * kWidth)
    max_of_columns<4>(features + c, rows, slots, count, channels, best + c, slot + c);
  for (; c + kWidth <= channels; c += kWidth)
    max_of_columns<1>(features + c, rows, slots, count, channels, best + c, slot + c);
  if (c < channels)
    max_of_rest(features + c, rows, slots, count, channels, channels - c, best + c, slot + c);
}

}  // namespace

void max_of_rows(const float* features, const int64_t* rows, const int32_t* slots, int64_t count,
                 int64_t channels, float* best, int32_t* slot) {
  max_of(features, rows, slots, count, channels, best, slot);
}

void max_of_rows(const Half* features, const int64_t* rows, const int32_t* slots, int64_t count,
                 int64_t channels, float* best, int32_t* slot) {
  max_of(features, rows, slots, count, channels, best, slot);
}

void max_of_rows(const BFloat16* features, const int64_t* rows, const int32_t* slots, int64_t count,
                 int64_t channels, float* best, int32_t* slot) {
  max_of(features, rows, slots, count, channels, best, slot);
}

}  // namespace kpdeform::KPDEFORM_ISA
