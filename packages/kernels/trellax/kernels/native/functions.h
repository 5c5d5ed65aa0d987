// Functions of sixteen float32 numbers, accurate to about two units in the last place.

#ifndef TRELLAX_KERNELS_NATIVE_FUNCTIONS_H_
#define TRELLAX_KERNELS_NATIVE_FUNCTIONS_H_

#include "vectors.h"

namespace trellax {

TRELLAX_INLINE Floats Max(Floats a, Floats b) {
#ifdef __AVX512F__
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

TRELLAX_INLINE float LargestOf(Floats v) {
#ifdef __AVX512F__
  return _mm512_reduce_max_ps((__m512)v);
#else
  float lanes[kLanes], largest;
  Store(lanes, v);
  largest = lanes[0];
  for (int i = 1; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
#endif
}

TRELLAX_INLINE Words Max(Words a, Words b) {
#ifdef __AVX512F__
  return (Words)_mm512_max_epu32((__m512i)a, (__m512i)b);
#else
  return a > b ? a : b;
#endif
}

TRELLAX_INLINE uint32_t LargestOf(Words v) {
#ifdef __AVX512F__
  return _mm512_reduce_max_epu32((__m512i)v);
#else
  uint32_t largest = v[0];
  for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
#endif
}

TRELLAX_INLINE int32_t SumOf(Ints v) {
#ifdef __AVX512F__
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
#endif
}

// In pairs, always in the same order.
TRELLAX_INLINE float SumOf(Floats v) {
  float lanes[kLanes];
  Store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// e^x for x <= 88; below -87 it stays at the smallest normal number. x = n log 2 + r, and a polynomial for e^r - 1 - r (Cephes).
TRELLAX_INLINE Floats Exp(Floats x) {
  x = Max(x, Broadcast(-87.0f));
  const Floats magic = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats n = MultiplyAdd(x, Broadcast(1.44269504088896341f), magic) - magic;
  Floats r = MultiplyAdd(n, Broadcast(-0.693359375f), x);
  r = MultiplyAdd(n, Broadcast(2.12194440e-4f), r);
  Floats y = Broadcast(1.9875691500e-4f);
  y = MultiplyAdd(y, r, Broadcast(1.3981999507e-3f));
  y = MultiplyAdd(y, r, Broadcast(8.3334519073e-3f));
  y = MultiplyAdd(y, r, Broadcast(4.1665795894e-2f));
  y = MultiplyAdd(y, r, Broadcast(1.6666665459e-1f));
  y = MultiplyAdd(y, r, Broadcast(5.0000001201e-1f));
  y = MultiplyAdd(y * r, r, r) + 1.0f;
#ifdef __AVX512F__
  const Ints exponent = (Ints)_mm512_cvtps_epi32((__m512)n);
#else
  const Ints exponent = __builtin_convertvector(n, Ints);
#endif
  return y * (Floats)((exponent + 127) << 23);
}

TRELLAX_INLINE float Exp(float x) { return Exp(Broadcast(x))[0]; }

// Near zero by its series, since 1 - 2 / (e^2x + 1) would lose digits there.
TRELLAX_INLINE Floats Tanh(Floats x) {
  const Floats square = x * x;
  Floats series = Broadcast(62.0f / 2835);
  series = MultiplyAdd(series, square, Broadcast(-17.0f / 315));
  series = MultiplyAdd(series, square, Broadcast(2.0f / 15));
  series = MultiplyAdd(series, square, Broadcast(-1.0f / 3));
  series = MultiplyAdd(series * square, x, x);
  const Floats bounded = x > 10.0f ? Broadcast(10.0f) : x;
  const Floats quotient = 1.0f - 2.0f / (Exp(bounded + bounded) + 1.0f);
  return square < 0.0625f ? series : quotient;
}

// Rows become columns.
TRELLAX_INLINE void Transpose(Floats (&rows)[kLanes]) {
#ifdef __AVX512F__
  __m512 a[kLanes], b[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2) {
    a[i] = _mm512_unpacklo_ps((__m512)rows[i], (__m512)rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps((__m512)rows[i], (__m512)rows[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {
#pragma GCC unroll 16
    for (int j = 0; j < 2; ++j) {
      const __m512d low = (__m512d)a[i + j], high = (__m512d)a[i + 2 + j];
      b[i + 2 * j] = (__m512)_mm512_unpacklo_pd(low, high);
      b[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(low, high);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 8) {
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) {
      a[i + j] = _mm512_shuffle_f32x4(b[i + j], b[i + 4 + j], 0x88);
      a[i + 4 + j] = _mm512_shuffle_f32x4(b[i + j], b[i + 4 + j], 0xdd);
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < 8; ++j) {
    rows[j] = (Floats)_mm512_shuffle_f32x4(a[j], a[8 + j], 0x88);
    rows[8 + j] = (Floats)_mm512_shuffle_f32x4(a[j], a[8 + j], 0xdd);
  }
#else
  float from[kLanes][kLanes], to[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) Store(from[i], rows[i]);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) to[j][i] = from[i][j];
  }
  for (int i = 0; i < kLanes; ++i) rows[i] = Load(to[i]);
#endif
}

}  // namespace trellax

#endif  // TRELLAX_KERNELS_NATIVE_FUNCTIONS_H_
