// Sixteen numbers at once, whatever the CPU: compilers split the vectors where registers are narrower.
//
//   Floats acc = Zero();  acc = MultiplyAdd(Broadcast(x[d]), Load(weights + 16 * d), acc);

#ifndef TRELLAX_KERNELS_NATIVE_VECTORS_H_
#define TRELLAX_KERNELS_NATIVE_VECTORS_H_

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace trellax {

constexpr int kLanes = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(32)));

#define TRELLAX_INLINE inline __attribute__((always_inline))

template <typename Vector, typename T>
TRELLAX_INLINE Vector LoadAs(const T* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

TRELLAX_INLINE Floats Load(const float* from) { return LoadAs<Floats>(from); }
TRELLAX_INLINE void Store(float* to, Floats v) { std::memcpy(to, &v, sizeof(v)); }
TRELLAX_INLINE Floats Broadcast(float x) { return Floats{} + x; }
TRELLAX_INLINE Floats Zero() { return Floats{}; }

TRELLAX_INLINE Floats MultiplyAdd(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

// Words whose upper halves are bfloat16 numbers, and whose lower halves are zero, are float32 numbers.
TRELLAX_INLINE Floats LowerHalves(Words pairs) { return (Floats)(pairs << 16); }
TRELLAX_INLINE Floats UpperHalves(Words pairs) { return (Floats)(pairs & 0xffff0000u); }

// Compilers convert the numbers of a vector one by one where they are not told how.
TRELLAX_INLINE Floats LoadBfloat16(const uint16_t* from) {
#ifdef __AVX512F__
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)LoadAs<Halves>(from)), 16);
#else
  return (Floats)(__builtin_convertvector(LoadAs<Halves>(from), Words) << 16);
#endif
}

TRELLAX_INLINE Floats LoadInt8(const int8_t* from) {
#ifdef __AVX512F__
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)LoadAs<Bytes>(from)));
#else
  return __builtin_convertvector(LoadAs<Bytes>(from), Floats);
#endif
}

TRELLAX_INLINE Floats ToFloats(Ints x) {
#ifdef __AVX512F__
  return (Floats)_mm512_cvtepi32_ps((__m512i)x);
#else
  return __builtin_convertvector(x, Floats);
#endif
}

// To the nearest, ties to even; for numbers of less than 2^22.
TRELLAX_INLINE Ints RoundToInts(Floats x) {
#ifdef __AVX512F__
  return (Ints)_mm512_cvtps_epi32((__m512)x);
#else
  const Floats magic = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  return __builtin_convertvector((x + magic) - magic, Ints);
#endif
}

TRELLAX_INLINE Bytes ToBytes(Ints x) {
#ifdef __AVX512F__
  return (Bytes)_mm512_cvtepi32_epi8((__m512i)x);
#else
  return __builtin_convertvector(x, Bytes);
#endif
}

// Adds to each of sixteen integers the products of four numbers without sign and four with sign.
TRELLAX_INLINE Ints AddProductsOfBytes(Ints sums, Words unsigned_bytes, Words signed_bytes) {
#ifdef __AVX512VNNI__
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
#else
  for (int i = 0; i < 4; ++i) {
    sums += (Ints)((unsigned_bytes >> (8 * i)) & 255u) * ((Ints)(signed_bytes << (24 - 8 * i)) >> 24);
  }
  return sums;
#endif
}

TRELLAX_INLINE float FloatOf(uint32_t bits) {
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}

TRELLAX_INLINE float FromBfloat16(uint16_t x) { return FloatOf(static_cast<uint32_t>(x) << 16); }

// Rounds to the nearest, ties to even; keeps what is not a number.
TRELLAX_INLINE uint16_t ToBfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

TRELLAX_INLINE Halves ToBfloat16(Floats x) {
  const Words bits = (Words)x;
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet = (bits >> 16) | 0x40u;
  const Words halves = (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
#ifdef __AVX512F__
  return (Halves)_mm512_cvtepi32_epi16((__m512i)halves);
#else
  return __builtin_convertvector(halves, Halves);
#endif
}

// The first `left` numbers, and zeros, if there are fewer than sixteen.
TRELLAX_INLINE Floats LoadSome(const float* from, int64_t left) {
  if (left >= kLanes) return Load(from);
  Floats v = Zero();
  std::memcpy(&v, from, left * sizeof(float));
  return v;
}

TRELLAX_INLINE Floats LoadSome(const uint16_t* from, int64_t left) {
  if (left >= kLanes) return LoadBfloat16(from);
  uint16_t halves[kLanes] = {};
  std::memcpy(halves, from, left * sizeof(uint16_t));
  return LoadBfloat16(halves);
}

// Stores the lanes that there is room for, as they are or rounded.
TRELLAX_INLINE void StoreSome(float* to, Floats v, int64_t left) {
  if (left >= kLanes) return Store(to, v);
  std::memcpy(to, &v, left * sizeof(float));
}

TRELLAX_INLINE void StoreSome(uint16_t* to, Floats v, int64_t left) {
  const Halves halves = ToBfloat16(v);
  if (left >= kLanes) {
    std::memcpy(to, &halves, sizeof(halves));
  } else {
    std::memcpy(to, &halves, left * sizeof(uint16_t));
  }
}

TRELLAX_INLINE void StoreSome(int8_t* to, Bytes v, int64_t left) {
  if (left >= kLanes) {
    std::memcpy(to, &v, sizeof(v));
  } else {
    std::memcpy(to, &v, left);
  }
}

}  // namespace trellax

#endif  // TRELLAX_KERNELS_NATIVE_VECTORS_H_
