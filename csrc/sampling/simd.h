// Vectors of the width that this translation unit is compiled for (see isa.h), as compiler vector extensions:
// AVX-512, AVX2, SSE or NEON from one source.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#define KPDEFORM_VECTOR_BYTES 64
#elif defined(__AVX2__)
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

template <typename T>
inline T horizontal_sum(Vec<T> value) {
  T sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += value[lane];
  return sum;
}

// Writes the non-zero values and their positions to the front; returns how many. Up to one vector is written past them.
template <typename T>
inline int compress_nonzero(const T* values, int count, T* kept, int32_t* positions) {
  int n = 0;
  for (int j = 0; j < count; ++j) {
    kept[n] = values[j];
    positions[n] = j;
    n += values[j] != T(0);
  }
  return n;
}

#if defined(__AVX512F__)
inline int compress_nonzero(const float* values, int count, float* kept, int32_t* positions) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int n = 0;
  for (int j = 0; j < count; j += 16) {
    const __m512 value = _mm512_loadu_ps(values + j);
    const __mmask16 inside = count - j >= 16 ? 0xffff : (1u << (count - j)) - 1;
    const __mmask16 keep = _mm512_mask_cmp_ps_mask(inside, value, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    _mm512_storeu_ps(kept + n, _mm512_maskz_compress_ps(keep, value));
    _mm512_storeu_si512(positions + n, _mm512_maskz_compress_epi32(keep, _mm512_add_epi32(lanes, _mm512_set1_epi32(j))));
    n += __builtin_popcount(keep);
  }
  return n;
}
#endif

}  // namespace kpdeform::KPDEFORM_ISA
