// Vectors as wide as the instruction set that this file is compiled for (see isa.h), written with
// compiler vector extensions: one source for AVX-512, AVX2, SSE and NEON.
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

// Load or store the first `count` lanes, 0 <= count <= kLanes. Memory beyond them is not accessed.
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

// Vectors of lane numbers, for shuffle().
template <typename T>
using LaneNumbers = decltype(Vec<T>{} < Vec<T>{});

template <typename T>
inline LaneNumbers<T> lane_numbers() {
  LaneNumbers<T> numbers;
  for (int lane = 0; lane < kLanes<T>; ++lane) numbers[lane] = lane;
  return numbers;
}

// Lane i of the result is lane numbers[i] of the value.
template <typename T>
inline Vec<T> shuffle(Vec<T> value, LaneNumbers<T> numbers) {
#if defined(__clang__)
  Vec<T> result;
  for (int lane = 0; lane < kLanes<T>; ++lane) result[lane] = value[numbers[lane]];
  return result;
#else
  return __builtin_shuffle(value, numbers);
#endif
}

// The value, or 0 if `kept` is false, without a branch.
template <typename T>
inline Vec<T> kept_if(bool kept, Vec<T> value) {
  using Words = LaneNumbers<T>;
  return reinterpret_cast<Vec<T>>(reinterpret_cast<Words>(value) & (Words{} - kept));
}

template <typename T>
inline T horizontal_sum(Vec<T> value) {
  for (int distance = kLanes<T> / 2; distance > 0; distance /= 2)
    value += shuffle<T>(value, lane_numbers<T>() ^ distance);
  return value[0];
}

template <typename T>
inline T horizontal_min(Vec<T> value) {
  for (int distance = kLanes<T> / 2; distance > 0; distance /= 2) {
    const Vec<T> other = shuffle<T>(value, lane_numbers<T>() ^ distance);
    value = other < value ? other : value;
  }
  return value[0];
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

// A set of lanes: bit i is lane i.
typedef uint32_t LaneMask;

// Lanes in which a < b.
template <typename T>
inline LaneMask below(Vec<T> a, Vec<T> b) {
  const auto less = a < b;
  LaneMask lanes = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) lanes |= LaneMask(less[lane] != 0) << lane;
  return lanes;
}

// Stores the lanes of a vector, or of kLanes<T> words, that are in the set, contiguously. May write
// up to one whole vector.
template <typename T>
inline void compress(Vec<T> value, LaneMask lanes, T* to) {
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    *to = value[lane];
    to += lanes >> lane & 1;
  }
}
template <typename T>
inline void compress_words(const uint32_t* from, LaneMask lanes, uint32_t* to) {
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    *to = from[lane];
    to += lanes >> lane & 1;
  }
}

// Copies those of `count` entries that are in [0, limit) to `kept`, contiguously, and returns their
// number. May write up to one vector beyond them.
template <typename Index>
inline int keep_rows(const Index* entries, int64_t count, int64_t limit, uint32_t* kept) {
  int n = 0;
  for (int64_t i = 0; i < count; ++i) {
    kept[n] = uint32_t(entries[i]);
    n += entries[i] >= 0 && entries[i] < limit;
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
inline LaneMask below<float>(Vec<float> a, Vec<float> b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
template <>
inline LaneMask below<double>(Vec<double> a, Vec<double> b) {
  return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ);
}
template <>
inline void compress<float>(Vec<float> value, LaneMask lanes, float* to) {
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(__mmask16(lanes), value));
}
template <>
inline void compress<double>(Vec<double> value, LaneMask lanes, double* to) {
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(__mmask8(lanes), value));
}
template <>
inline void compress_words<float>(const uint32_t* from, LaneMask lanes, uint32_t* to) {
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(lanes), _mm512_loadu_si512(from)));
}
template <>
inline void compress_words<double>(const uint32_t* from, LaneMask lanes, uint32_t* to) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_maskz_compress_epi32(__mmask8(lanes), words));
}
template <>
inline int keep_rows<int32_t>(const int32_t* entries, int64_t count, int64_t limit,
                              uint32_t* kept) {
  const __m512i bound = _mm512_set1_epi32(int(limit < 0x7fffffff ? limit : 0x7fffffff));
  int n = 0;
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 real = __mmask16(count - i >= 16 ? 0xffff : (1 << (count - i)) - 1);
    const __m512i entry = _mm512_maskz_loadu_epi32(real, entries + i);
    const __mmask16 keep = _mm512_mask_cmplt_epu32_mask(real, entry, bound);
    _mm512_storeu_si512(kept + n, _mm512_maskz_compress_epi32(keep, entry));
    n += __builtin_popcount(keep);
  }
  return n;
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
template <>
inline Vec<float> load_first<float>(const float* source, int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(source, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), lanes));
}
template <>
inline LaneMask below<float>(Vec<float> a, Vec<float> b) {
  return LaneMask(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}
template <>
inline LaneMask below<double>(Vec<double> a, Vec<double> b) {
  return LaneMask(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_LT_OQ)));
}
// The words of the lanes in the set, packed to the front.
inline __m256i front(__m256i words, LaneMask lanes) {
  const uint64_t spread = _pdep_u64(lanes, 0x0101010101010101) * 0xff;
  const uint64_t order = _pext_u64(0x0706050403020100, spread);
  return _mm256_permutevar8x32_epi32(
      words, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(order))));
}
template <>
inline void compress<float>(Vec<float> value, LaneMask lanes, float* to) {
  _mm256_storeu_ps(to, _mm256_castsi256_ps(front(_mm256_castps_si256(value), lanes)));
}
template <>
inline void compress_words<float>(const uint32_t* from, LaneMask lanes, uint32_t* to) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), front(words, lanes));
}
#endif

}  // namespace kpdeform::KPDEFORM_ISA
