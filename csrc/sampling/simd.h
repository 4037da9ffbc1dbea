// Vectors of the width that this translation unit is compiled for (see isa.h), as compiler vector
// extensions: AVX-512, AVX2, SSE or NEON from one source.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#define KPDEFORM_VECTOR_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define KPDEFORM_VECTOR_BYTES 32
#else
#define KPDEFORM_VECTOR_BYTES 16
#endif

namespace kpdeform::KPDEFORM_ISA {

template <typename T>
struct Simd;
template <>
struct Simd<float> {
  typedef float type __attribute__((vector_size(KPDEFORM_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Simd<double> {
  typedef double type __attribute__((vector_size(KPDEFORM_VECTOR_BYTES), aligned(8), may_alias));
};
template <typename T>
using Vec = typename Simd<T>::type;

template <typename T>
constexpr int kLanes = KPDEFORM_VECTOR_BYTES / int(sizeof(T));

template <typename T>
inline Vec<T> load(const T* source) {
  return *reinterpret_cast<const Vec<T>*>(source);
}

template <typename T>
inline void store(T* target, Vec<T> value) {
  *reinterpret_cast<Vec<T>*>(target) = value;
}

// The first `count` lanes, 0 <= count <= kLanes; memory behind them is not touched.
template <typename T>
inline Vec<T> load_first(const T* source, int64_t count) {
  Vec<T> value = {};
  for (int64_t lane = 0; lane < count; ++lane) value[lane] = source[lane];
  return value;
}

template <typename T>
inline void store_first(T* target, Vec<T> value, int64_t count) {
  for (int64_t lane = 0; lane < count; ++lane) target[lane] = value[lane];
}

template <typename T>
inline T horizontal_sum(Vec<T> value) {
  T sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += value[lane];
  return sum;
}

template <typename T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

template <typename T>
inline Vec<T> square_root(Vec<T> value) {
  for (int lane = 0; lane < kLanes<T>; ++lane) value[lane] = __builtin_sqrt(value[lane]);
  return value;
}

template <typename T>
using Mask = decltype(Vec<T>{} < Vec<T>{});

// Appends the lanes of `value` that `keep` marks to kept[n...], and first + lane to
// positions[n...]; returns the new n. Up to one vector is written past the end.
template <typename T>
inline int append(Vec<T> value, Mask<T> keep, int first, T* kept, int32_t* positions, int n) {
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    kept[n] = value[lane];
    positions[n] = first + lane;
    n += keep[lane] != 0;
  }
  return n;
}

#if defined(__AVX512F__)
template <>
inline Vec<float> load_first<float>(const float* source, int64_t count) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), source);
}
template <>
inline void store_first<float>(float* target, Vec<float> value, int64_t count) {
  _mm512_mask_storeu_ps(target, __mmask16((1u << count) - 1), value);
}
template <>
inline Vec<float> square_root<float>(Vec<float> value) {
  return _mm512_maskz_sqrt_ps(0xffff, value);  // the plain form makes GCC 12 warn
}
template <>
inline Vec<double> square_root<double>(Vec<double> value) {
  return _mm512_maskz_sqrt_pd(0xff, value);
}
template <>
inline int append<float>(Vec<float> value, Mask<float> keep, int first, float* kept,
                         int32_t* positions, int n) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 mask = _mm512_movepi32_mask(__m512i(keep));
  _mm512_storeu_ps(kept + n, _mm512_maskz_compress_ps(mask, value));
  _mm512_storeu_si512(positions + n, _mm512_maskz_compress_epi32(
                                         mask, _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
  return n + __builtin_popcount(mask);
}
#elif defined(__AVX2__)
template <>
inline Vec<float> square_root<float>(Vec<float> value) {
  return _mm256_sqrt_ps(value);
}
template <>
inline Vec<double> square_root<double>(Vec<double> value) {
  return _mm256_sqrt_pd(value);
}
#endif

}  // namespace kpdeform::KPDEFORM_ISA
