// Vectors of float and uint32 as wide as the instruction set, used by search_isa.cpp only.
// Arithmetic uses the vector extension of GCC and Clang; only masks and compaction need intrinsics.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace kpdeform::KPDEFORM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Mask;  // bit i: lane i

template <int... Lane>
struct Sequence {};
template <int Count, int... Lane>
struct MakeSequence : MakeSequence<Count - 1, Count - 1, Lane...> {};
template <int... Lane>
struct MakeSequence<0, Lane...> {
  typedef Sequence<Lane...> Type;
};
typedef MakeSequence<kLanes>::Type AllLanes;

template <typename Vector>
inline Vector load(const void* from) {
  Vector value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <typename Vector>
inline void store(void* to, Vector value) {
  __builtin_memcpy(to, &value, sizeof(value));
}

inline Floats abs(Floats a) {
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(a) & 0x7fffffffu);
}
inline Floats max(Floats a, float b) {
  return a > b ? a : Floats{} + b;
}
inline Words min(Words a, Words b) {
  return a < b ? a : b;
}
inline Words max(Words a, Words b) {
  return a > b ? a : b;
}

// The integer part of numbers in [0, 2^31).
inline Words truncate(Floats a) {
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
  return reinterpret_cast<Words>(__builtin_convertvector(a, Ints));
}

// 0, 1, 2, ...
inline Words lane_numbers() {
  Words value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = lane;
  return value;
}

// The concatenation of value and next, shifted by one lane: lanes 1, ..., kLanes of it.
template <int... Lane>
inline Words shift_lanes(Words value, Words next, Sequence<Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(value, next, (Lane + 1)...);
#else
  return __builtin_shuffle(value, next, Words{static_cast<uint32_t>(Lane + 1)...});
#endif
}
inline Words shifted(Words value, Words next) {
  return shift_lanes(value, next, AllLanes{});
}

// Lane i of the result is lane i ^ Flip of the value.
template <int Flip, int... Lane>
inline Words exchange_lanes(Words value, Sequence<Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(value, value, (Lane ^ Flip)...);
#else
  return __builtin_shuffle(value, Words{static_cast<uint32_t>(Lane ^ Flip)...});
#endif
}
template <int Flip>
inline Words exchange(Words value) {
  return exchange_lanes<Flip>(value, AllLanes{});
}

// float32(from[lane] - center)
inline Floats load_relative(const float* from, float center) {
  return load<Floats>(from) - center;
}
inline Floats load_relative(const double* from, double center) {
  Floats value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = static_cast<float>(from[lane] - center);
  return value;
}

inline Mask first_lanes(int64_t count) {
  return count >= kLanes ? (1u << kLanes) - 1 : count <= 0 ? 0 : (1u << count) - 1;
}
inline int count_lanes(Mask mask) {
  return __builtin_popcount(mask);
}

// Lanes in which a < b.
inline Mask less(Floats a, float b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, _mm512_set1_ps(b), _CMP_LT_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, _mm256_set1_ps(b), _CMP_LT_OQ));
#else
  Mask mask = 0;
  for (int lane = 0; lane < kLanes; ++lane) mask |= Mask{a[lane] < b} << lane;
  return mask;
#endif
}

// Lanes in which a <= b.
inline Mask not_above(Words a, uint32_t b) {
#if defined(__AVX512F__)
  return _mm512_cmple_epu32_mask((__m512i)a, _mm512_set1_epi32(static_cast<int>(b)));
#else
  const Words above = a > b;
#if defined(__AVX2__)
  return 0xff ^ static_cast<Mask>(_mm256_movemask_ps((__m256)above));
#else
  Mask mask = 0;
  for (int lane = 0; lane < kLanes; ++lane) mask |= Mask{above[lane] == 0} << lane;
  return mask;
#endif
#endif
}

// Entry index[lane] of the Count vectors at `from`. An index beyond them, up to 255, gives an
// unspecified value.
template <int Count>
inline Words look_up(const uint32_t* from, Words index) {
#if defined(__AVX512F__)
  const __m512i i = (__m512i)index;
  if constexpr (Count == 1)
    return (Words)_mm512_maskz_permutexvar_epi32(0xffff, i, _mm512_loadu_si512(from));
  if constexpr (Count == 2)
    return (Words)_mm512_permutex2var_epi32(_mm512_loadu_si512(from), i,
                                            _mm512_loadu_si512(from + kLanes));
  if constexpr (Count == 3 || Count == 4) {
    const __m512i low =
        _mm512_permutex2var_epi32(_mm512_loadu_si512(from), i, _mm512_loadu_si512(from + kLanes));
    const __m512i high = _mm512_permutex2var_epi32(_mm512_loadu_si512(from + 2 * kLanes), i,
                                                   _mm512_loadu_si512(from + 3 * kLanes));
    return (Words)_mm512_mask_blend_epi32(_mm512_test_epi32_mask(i, _mm512_set1_epi32(2 * kLanes)),
                                          low, high);
  }
  return (Words)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, i, from, 4);
#else
  Words value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = from[index[lane]];
  return value;
#endif
}

// The smallest lane.
template <int Distance = kLanes / 2>
inline uint32_t smallest(Words value) {
  if constexpr (Distance == 0)
    return value[0];
  else
    return smallest<Distance / 2>(min(value, exchange<Distance>(value)));
}

// The position, from `at` on, of the first key that is not below the bound. Keys ascend and end
// with 8 entries that are larger than every bound.
inline int64_t first_not_below(const uint64_t* keys, int64_t at, uint64_t bound) {
#if defined(__AVX512F__)
  for (;;) {
    const Mask below =
        _mm512_cmplt_epu64_mask(_mm512_loadu_si512(keys + at), _mm512_set1_epi64(bound));
    at += count_lanes(below);
    if (below != 0xff) return at;
  }
#else
  while (keys[at] < bound) ++at;
  return at;
#endif
}

// value in the lanes of the mask, `other` elsewhere.
inline Words select(Mask mask, Words value, uint32_t other) {
#if defined(__AVX512F__)
  return (Words)_mm512_mask_mov_epi32(_mm512_set1_epi32(static_cast<int>(other)),
                                      static_cast<__mmask16>(mask), (__m512i)value);
#else
  Words bits = lane_numbers();
  for (int lane = 0; lane < kLanes; ++lane) bits[lane] = 1u << lane;
  return (bits & mask) != 0 ? value : Words{} + other;
#endif
}

// Stores the first `count` lanes.
inline void store_first(uint32_t* to, Words value, int64_t count) {
  if (count >= kLanes) return store(to, value);
#if defined(__AVX512F__)
  _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(first_lanes(count)), (__m512i)value);
#else
  __builtin_memcpy(to, &value, count * sizeof(uint32_t));
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// The numbers of the lanes in the mask, packed to the front.
inline __m256i front_lanes(Mask mask) {
  const uint64_t spread = _pdep_u64(mask, 0x0101010101010101) * 0xff;
  const uint64_t lanes = _pext_u64(0x0706050403020100, spread);
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(lanes)));
}
#endif

// Stores the lanes in the mask contiguously. Up to kLanes entries from `to` on may be overwritten.
inline void compress(uint32_t* to, Words value, Mask mask) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(to,
                      _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), (__m512i)value));
#elif defined(__AVX2__)
  store(to, _mm256_permutevar8x32_epi32((__m256i)value, front_lanes(mask)));
#else
  for (int lane = 0; lane < kLanes; ++lane)
    if (mask >> lane & 1) *to++ = value[lane];
#endif
}
inline void compress(float* to, Floats value, Mask mask) {
  compress(reinterpret_cast<uint32_t*>(to), reinterpret_cast<Words>(value), mask);
}

}  // namespace
}  // namespace kpdeform::KPDEFORM_ISA
