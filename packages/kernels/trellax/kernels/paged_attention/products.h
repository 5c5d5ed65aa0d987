// Products of queries with keys, and of weights with values.
//
// Each sum is one chain of additions, in the order of a head's numbers and of keys. Few queries read keys and values from their
// pages as they add them up; many read a copy of them in scratch memory. The sums are the same, bit for bit.

#ifndef TRELLAX_KERNELS_PAGED_ATTENTION_PRODUCTS_H_
#define TRELLAX_KERNELS_PAGED_ATTENTION_PRODUCTS_H_

#include <utility>

#include "numbers.h"

namespace trellax {
namespace {  // nothing is shared with other libraries of the process

#ifdef __AVX512F__
constexpr int kRows = 6;  // of a product in registers: 24 sums, 4 vectors and a broadcast
constexpr int kVectors = 4;
#else
constexpr int kRows = 3;
constexpr int kVectors = 2;
#endif

// How many queries read from pages, without a copy, at most.
constexpr int64_t kRowsReadingKeys = 2 * kRows, kRowsReadingValues = 4 * kRows;

// The right sides of products: rows of words in scratch memory, or rows of values in their pages.
template <typename Numbers>
struct Copied {
  static constexpr int kNarrow = 1;
  const float* at;
  int64_t stride;

  TRELLAX_INLINE void Prefetch() const {}

  template <int V>
  TRELLAX_INLINE void LoadRow(int64_t row, int64_t column, Floats (&to)[V]) const {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) to[v] = Load(at + row * stride + column + v * kLanes);
  }
};

template <typename Numbers>
struct Paged {
  static constexpr int kNarrow = Numbers::kNarrow;
  const Problem& p;
  const int64_t* offsets;
  Prefetcher& next;
  int64_t lines;  // to prefetch with each row

  TRELLAX_INLINE void Prefetch() const { next.Some(lines); }

  template <int V>
  TRELLAX_INLINE void LoadRow(int64_t row, int64_t column, Floats (&to)[V]) const {
    Numbers::LoadRow(p, offsets, row, column, to);
  }
};

// to[R, 16 V] (+)= a[R, depth] b[depth, 16 V], of b's columns from `column` on. The loops are unrolled to keep sums in registers.
template <typename Numbers, bool kAdd, int R, int V, typename B>
void Product(const B& b, int64_t column, const float* a, int64_t a_stride, int64_t depth, float* to, int64_t to_stride) {
  Floats sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = kAdd ? Load(to + r * to_stride + v * kLanes) : Zero();
  }
  for (int64_t d = 0; d < depth; ++d) {
    b.Prefetch();
    Floats row[V];
    b.LoadRow(d, column, row);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = Numbers::Add(a + r * a_stride + d, row[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) Store(to + r * to_stride + v * kLanes, sums[r][v]);
  }
}

template <typename Numbers, bool kAdd, int V, typename B, int... R>
auto ProductOf(int64_t rows, std::integer_sequence<int, R...>) {
  using Fn = void (*)(const B&, int64_t, const float*, int64_t, int64_t, float*, int64_t);
  static constexpr Fn kProducts[] = {Product<Numbers, kAdd, R + 1, V, B>...};
  return kProducts[rows - 1];
}

// The same for any number of rows and columns (in multiples of B's narrow part of a row).
template <typename Numbers, bool kAdd, typename B>
void Products(const B& b, const float* a, int64_t a_stride, int64_t depth, float* to, int64_t to_stride, int64_t rows,
              int64_t columns) {
  constexpr auto kAnyRows = std::make_integer_sequence<int, kRows>{};
  for (int64_t c = 0; c < columns;) {
    const bool is_wide = columns - c >= kVectors * kLanes;
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t some = std::min<int64_t>(kRows, rows - r);
      const auto product = is_wide ? ProductOf<Numbers, kAdd, kVectors, B>(some, kAnyRows)
                                   : ProductOf<Numbers, kAdd, B::kNarrow, B>(some, kAnyRows);
      product(b, c, a + r * a_stride, a_stride, depth, to + r * to_stride + c, to_stride);
    }
    c += (is_wide ? kVectors : B::kNarrow) * kLanes;
  }
}

// scores[R, kKeys] of sixteen keys after the other.
template <typename Numbers, int R>
void ScoresFromPages(const Problem& p, const int64_t* offsets, int64_t num_keys, const float* queries, Prefetcher& next,
                     float* scores) {
  const int64_t num_words = Numbers::WordsAQuery(p), lines = next.LinesAStep(kKeys * num_words / (kLanes * kLanes));
  for (int64_t t = 0; t < num_keys; t += kLanes) {
    Floats sums[R] = {};
    for (int64_t word = 0; word < num_words; word += kLanes) {
      next.Some(lines);
      Floats columns[kLanes];
      Numbers::LoadColumns(p, offsets + t, word, columns);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r] = Numbers::Add(queries + r * num_words + word + i, columns[i], sums[r]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) Store(scores + r * kKeys + t, sums[r]);
  }
}

template <typename Numbers, int... R>
auto ScoresFromPagesOf(int64_t rows, std::integer_sequence<int, R...>) {
  using Fn = void (*)(const Problem&, const int64_t*, int64_t, const float*, Prefetcher&, float*);
  static constexpr Fn kFns[] = {ScoresFromPages<Numbers, R + 1>...};
  return kFns[rows - 1];
}

// scores[rows, kKeys] of a block's keys of one head, in sixteens. `copy` is scratch memory.
template <typename Numbers>
void Scores(const Problem& p, const int64_t* offsets, int64_t num_keys, const float* queries, int64_t rows, Prefetcher& next,
            float* copy, float* scores) {
  const int64_t num_words = Numbers::WordsAQuery(p);
  if (rows <= kRowsReadingKeys) {
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t some = std::min<int64_t>(kRows, rows - r);
      const auto scores_of = ScoresFromPagesOf<Numbers>(some, std::make_integer_sequence<int, kRows>{});
      scores_of(p, offsets, num_keys, queries + r * num_words, next, scores + r * kKeys);
    }
    return;
  }
  const int64_t lines = next.LinesAStep(kKeys * num_words / (kLanes * kLanes));
  for (int64_t t = 0; t < num_keys; t += kLanes) {
    for (int64_t word = 0; word < num_words; word += kLanes) {
      next.Some(lines);
      Floats columns[kLanes];
      Numbers::LoadColumns(p, offsets + t, word, columns);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) Store(copy + (word + i) * kKeys + t, columns[i]);
    }
  }
  const Copied<Numbers> keys{copy, kKeys};
  Products<Numbers, false>(keys, queries, num_words, num_words, scores, kKeys, rows, RoundUp(num_keys, kLanes));
}

// Adds a block's values of one head, times the weights [rows, kKeys] of queries, to sums [rows, padded_H]. `copy` is scratch memory.
template <typename Numbers>
void AddValues(const Problem& p, const int64_t* offsets, int64_t num_keys, const float* weights, int64_t rows, Prefetcher& next,
               float* copy, float* sums) {
  const int64_t padded_H = p.padded_H(), num_rows = Numbers::RowsOfValues(num_keys);
  if (rows <= kRowsReadingValues && Numbers::CanReadPages(p)) {
    const int64_t num_products = CeilOf(rows, kRows) * CeilOf(p.H, kVectors * kLanes);
    const Paged<Numbers> values{p, offsets, next, next.LinesAStep(Numbers::RowsOfValues(kKeys) * num_products)};
    return Products<Numbers, true>(values, weights, kKeys, num_rows, sums, padded_H, rows, padded_H);
  }
  const int64_t lines = next.LinesAStep(Numbers::RowsOfValues(kKeys));
  for (int64_t row = 0; row < num_rows; ++row) {
    next.Some(lines);
    for (int64_t column = 0; column < padded_H; column += Numbers::kNarrow * kLanes) {
      Floats values[Numbers::kNarrow];
      Numbers::LoadRow(p, offsets, row, column, values);
      for (int v = 0; v < Numbers::kNarrow; ++v) Store(copy + row * padded_H + column + v * kLanes, values[v]);
    }
  }
  const Copied<Numbers> values{copy, padded_H};
  Products<Numbers, true>(values, weights, kKeys, num_rows, sums, padded_H, rows, padded_H);
}

}  // namespace
}  // namespace trellax

#endif  // TRELLAX_KERNELS_PAGED_ATTENTION_PRODUCTS_H_
