// Loads vectors of T from memory that holds T, Half or BFloat16, and stores them, rounding to
// nearest even.
#pragma once

#include <cstdint>

#include "base/half.h"
#include "base/simd.h"

// Masked intrinsics are used because the plain ones cause spurious warnings in GCC 12.
namespace kpdeform::KPDEFORM_ISA {

inline float to_number(float value) {
  return value;
}
inline double to_number(double value) {
  return value;
}
inline void from_number(float number, float& value) {
  value = number;
}
inline void from_number(double number, double& value) {
  value = number;
}

inline float to_number(BFloat16 value) {
  return __builtin_bit_cast(float, uint32_t(value.bits) << 16);
}

inline float to_number(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00)  // infinite or NaN
    return __builtin_bit_cast(float, sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  const float scaled = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, scaled));
}

inline void from_number(float number, BFloat16& value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, number);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  value.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded >> 16);
}

inline void from_number(float number, Half& value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, number);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t result;
  if (magnitude > 0x7f800000) {  // NaN
    result = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to infinity
    result = 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal: float addition rounds
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    result = __builtin_bit_cast(uint32_t, shifted) - 0x3f000000;
  } else {
    result = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
  }
  value.bits = uint16_t(sign | result);
}

#if defined(__AVX512F__)
inline Vec<float> widen_bits(__m256i bits, BFloat16) {
  return _mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
}

inline Vec<float> widen_bits(__m256i bits, Half) {
  return _mm512_maskz_cvtph_ps(0xffff, bits);
}
#endif

template <typename T, typename F>
inline Vec<T> load_first_as(const F* source, int64_t count) {
  if constexpr (sizeof(F) == sizeof(T)) {
    return load_first(source, count);
  } else {
#if defined(__AVX512F__)
    return widen_bits(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), source), F());
#else
    Vec<T> value = {};
    for (int64_t lane = 0; lane < count; ++lane) value[lane] = to_number(source[lane]);
    return value;
#endif
  }
}

inline Vec<float> load_wide(const BFloat16* source) {
#if defined(__AVX512F__)
  return widen_bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)), BFloat16());
#elif defined(__AVX2__)
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#else
  return load_first_as<float>(source, kLanes<float>);
#endif
}

inline Vec<float> load_wide(const Half* source) {
#if defined(__AVX512F__)
  return widen_bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)), Half());
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#else
  return load_first_as<float>(source, kLanes<float>);
#endif
}

template <typename T, typename F>
inline Vec<T> load_as(const F* source) {
  if constexpr (sizeof(F) == sizeof(T)) {
    return load(source);
  } else {
    return load_wide(source);
  }
}

// convert and widen copy `count` elements to the other type: to[0:count] = from[0:count].
template <typename T, typename F>
inline void convert(const T* from, int64_t count, F* to) {
  for (int64_t i = 0; i < count; ++i) from_number(from[i], to[i]);
}
template <typename T, typename F>
inline void widen(const F* from, int64_t count, T* to) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) store(to + i, load_as<T>(from + i));
  if (i < count) store_first(to + i, load_first_as<T>(from + i, count - i), count - i);
}

}  // namespace kpdeform::KPDEFORM_ISA
