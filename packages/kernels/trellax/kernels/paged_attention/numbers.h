// What products of queries with keys, and of weights with values, are made of: float32 numbers, or pairs of bfloat16 numbers.
//
// Queries and weights are cut into words of four bytes: a number or a pair. `Add` multiplies a word with sixteen others.
// `offsets` say where a head's numbers begin in the pages, for each key of a block.

#ifndef TRELLAX_KERNELS_PAGED_ATTENTION_NUMBERS_H_
#define TRELLAX_KERNELS_PAGED_ATTENTION_NUMBERS_H_

#include "functions.h"
#include "pages.h"
#include "problem.h"

namespace trellax {
namespace {  // nothing is shared with other libraries of the process

constexpr int64_t kScoreVectors = kKeys / kLanes;

// One word in all lanes. (`Broadcast` adds it to zero, which compilers do in full, since it turns -0 into 0.)
TRELLAX_INLINE Words BroadcastWord(const float* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return Words{} + word;
}

// Numbers of pages of any type are converted to float32.
template <ffi::DataType kType>
struct SingleNumbers {
  static constexpr int kNarrow = 1;  // vectors that are the least part of a row of values

  static TRELLAX_INLINE Floats Add(const float* word, Floats others, Floats sum) {
    return MultiplyAdd((Floats)BroadcastWord(word), others, sum);
  }

  static int64_t WordsAQuery(const Problem& p) { return p.padded_H(); }
  static bool CanReadPages(const Problem& p) { return p.H == p.padded_H(); }  // by LoadRow of any width

  static void LoadQuery(const Problem& p, int64_t place, float* to) {
    for (int64_t h = 0; h < p.padded_H(); h += kLanes) {
      Store(to + h, p.q_type == ffi::F32 ? LoadHead<ffi::F32>(p.q, place + h, p.H - h)
                                         : LoadHead<ffi::BF16>(p.q, place + h, p.H - h));
    }
  }

  // Sixteen words, from `word` on, of sixteen keys; a column is one word of each.
  static TRELLAX_INLINE void LoadColumns(const Problem& p, const int64_t* offsets, int64_t word, Floats (&columns)[kLanes]) {
    if (p.H - word >= kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) columns[i] = LoadLanes<kType>(p.key_pages, offsets[i] + word);
    } else {
      for (int i = 0; i < kLanes; ++i) columns[i] = LoadSomeLanes<kType>(p.key_pages, offsets[i] + word, p.H - word);
    }
    Transpose(columns);
  }

  // Values have a row for each key.
  static int64_t RowsOfValues(int64_t num_keys) { return num_keys; }

  // V vectors of a row, from `column` on.
  template <int V>
  static TRELLAX_INLINE void LoadRow(const Problem& p, const int64_t* offsets, int64_t row, int64_t column, Floats (&values)[V]) {
    const int64_t at = offsets[row] + column;
    if constexpr (V == kNarrow) {
      values[0] = LoadHead<kType>(p.value_pages, at, p.H - column);
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) values[v] = LoadLanes<kType>(p.value_pages, at + v * kLanes);
    }
  }

  static TRELLAX_INLINE void StoreWeights(float* at, const Floats (&weights)[kScoreVectors]) {
    for (int v = 0; v < kScoreVectors; ++v) Store(at + v * kLanes, weights[v]);
  }

  // Puts sums of rows of values into the order of a head's numbers.
  static void Sort(float*, int64_t) {}
};

#ifdef __AVX512BF16__
// For bfloat16 queries and pages, on CPUs that multiply pairs of them. Weights are rounded to bfloat16, too. A word of a key holds
// neighbouring numbers of its head; a word of a row of values holds the same number of two neighbouring keys.
struct PairedNumbers {
  static constexpr int kNarrow = 2;

  static bool Fit(const Problem& p) {
    return p.q_type == ffi::BF16 && p.page_type == ffi::BF16 && p.H % (2 * kLanes) == 0;
  }

  static TRELLAX_INLINE Floats Add(const float* word, Floats others, Floats sum) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)BroadcastWord(word), (__m512bh)others);
  }

  static int64_t WordsAQuery(const Problem& p) { return p.H / 2; }
  static bool CanReadPages(const Problem&) { return true; }

  static void LoadQuery(const Problem& p, int64_t place, float* to) {
    std::memcpy(to, static_cast<const uint16_t*>(p.q) + place, p.H * sizeof(uint16_t));
  }

  static TRELLAX_INLINE void LoadColumns(const Problem& p, const int64_t* offsets, int64_t word, Floats (&columns)[kLanes]) {
    const uint16_t* keys = static_cast<const uint16_t*>(p.key_pages) + 2 * word;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) columns[i] = LoadAs<Floats>(keys + offsets[i]);
    Transpose(columns);
  }

  // The last row of an odd number of keys has one of no weight.
  static int64_t RowsOfValues(int64_t num_keys) { return CeilOf(num_keys, 2); }

  // Two vectors hold 32 numbers: the first, of each eight, the first four, the second the others.
  template <int V>
  static TRELLAX_INLINE void LoadRow(const Problem& p, const int64_t* offsets, int64_t row, int64_t column, Floats (&values)[V]) {
    const uint16_t* pages = static_cast<const uint16_t*>(p.value_pages) + column;
#pragma GCC unroll 4
    for (int v = 0; v < V; v += 2) {
      const __m512i even = (__m512i)LoadAs<Words>(pages + offsets[2 * row] + v * kLanes);
      const __m512i odd = (__m512i)LoadAs<Words>(pages + offsets[2 * row + 1] + v * kLanes);
      values[v] = (Floats)_mm512_unpacklo_epi16(even, odd);
      values[v + 1] = (Floats)_mm512_unpackhi_epi16(even, odd);
    }
  }

  static TRELLAX_INLINE void StoreWeights(float* at, const Floats (&weights)[kScoreVectors]) {
    for (int v = 0; v < kScoreVectors; v += 2) {
      Store(at + v / 2 * kLanes, (Floats)_mm512_cvtne2ps_pbh((__m512)weights[v + 1], (__m512)weights[v]));
    }
  }

  static void Sort(float* sums, int64_t columns) {
    const __m512i lower = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
    for (float* at = sums; at < sums + columns; at += 2 * kLanes) {
      const __m512 first = (__m512)Load(at), second = (__m512)Load(at + kLanes);
      Store(at, (Floats)_mm512_permutex2var_ps(first, lower, second));
      Store(at + kLanes, (Floats)_mm512_permutex2var_ps(first, upper, second));
    }
  }
};
#endif

}  // namespace
}  // namespace trellax

#endif  // TRELLAX_KERNELS_PAGED_ATTENTION_NUMBERS_H_
