// One call of paged attention, and how its queries and keys are cut into tiles and blocks.
//
// Axes: B rows, S queries a row, N heads, K kv heads, G query heads a kv head, H head dim, P pages a row, R queries of a kv head
// (R = S·G: those of all its query heads), T keys.

#ifndef TRELLAX_KERNELS_PAGED_ATTENTION_PROBLEM_H_
#define TRELLAX_KERNELS_PAGED_ATTENTION_PROBLEM_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace trellax {
namespace {  // nothing is shared with other libraries of the process

constexpr int64_t kKeys = 64;      // of a block
constexpr int64_t kSplit = 256;    // keys that one thread works on at least
constexpr int64_t kTileRows = 96;  // queries that share a block of keys in a thread's cache

int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilOf(a, b) * b; }

struct Problem {
  const void *q, *key_pages, *value_pages;
  ffi::DataType q_type, page_type;
  const float *key_scales, *value_scales, *slopes;  // or null
  const int32_t *table, *positions, *lengths;
  int64_t B, S, N, K, H, P, num_pages, page_size;
  float scale, soft_cap;  // a soft_cap of 0 is none
  bool is_causal;
  int64_t window;  // 0 is none
  void* out;

  int64_t G() const { return N / K; }
  int64_t R() const { return S * G(); }
  int64_t padded_H() const { return RoundUp(H, kLanes); }
  int64_t num_tiles() const { return CeilOf(R(), kTileRows); }
};

// Keys [begin, end).
struct Range {
  int64_t begin, end;

  bool is_empty() const { return end <= begin; }
};

// The keys that a query may read.
Range VisibleKeys(const Problem& p, int64_t b, int64_t s) {
  const int64_t position = p.positions[b * p.S + s];
  int64_t end = std::min<int64_t>(p.lengths[b], p.P * p.page_size);
  if (position < 0) return {0, 0};
  if (p.is_causal) {
    end = std::min(end, position + 1);
  } else if (p.window > 0) {
    end = std::min(end, position + p.window);
  }
  const int64_t begin = p.window > 0 ? std::max<int64_t>(0, position - p.window + 1) : 0;
  return {begin, std::max(begin, end)};
}

// Some queries of a row b, of `heads` kv heads from k on: [first, first + rows) of the R of each.
struct Tile {
  int64_t b, k, heads, first, rows;
  Range keys;  // that any of them may read

  int64_t size() const { return heads * rows; }
  int64_t first_split() const { return keys.begin / kSplit; }
  int64_t num_splits() const { return keys.is_empty() ? 0 : CeilOf(keys.end, kSplit) - first_split(); }

  int64_t FirstKey() const { return keys.begin / kKeys * kKeys; }  // of its first block

  // Those of its keys that a split has, from the beginning of a block.
  Range KeysOfSplit(int64_t split) const {
    return {std::max(FirstKey(), split * kSplit), std::min(keys.end, (split + 1) * kSplit)};
  }
};

// What is asked of the keys by one query.
struct Query {
  int64_t place;  // of its first number in q and in out
  Range keys;
  float position, slope;

  Query() = default;

  // The i-th of a tile.
  Query(const Problem& p, const Tile& tile, int64_t i) {
    const int64_t row = tile.first + i % tile.rows;
    const int64_t s = row / p.G(), n = (tile.k + i / tile.rows) * p.G() + row % p.G();
    place = ((tile.b * p.S + s) * p.N + n) * p.H;
    keys = VisibleKeys(p, tile.b, s);
    position = p.positions[tile.b * p.S + s];
    slope = p.slopes ? p.slopes[n] : 0.0f;
  }
};

// How many kv heads to put in a tile. The keys of neighbouring heads are neighbours in memory, which is read at twice the speed if
// all of them are read at once; but there should be work for all threads.
int64_t HeadsATile(const Problem& p, int64_t num_threads) {
  const int64_t longest = *std::max_element(p.lengths, p.lengths + p.B);
  const int64_t tiles_a_head = p.B * p.num_tiles() * std::max<int64_t>(1, CeilOf(longest, kSplit));
  int64_t heads = std::clamp<int64_t>(kTileRows / p.R(), 1, p.K);
  while (heads > 1 && tiles_a_head * CeilOf(p.K, heads) < 2 * num_threads) heads = CeilOf(heads, 2);
  return heads;
}

std::vector<Tile> MakeTiles(const Problem& p, int64_t num_threads) {
  std::vector<Tile> tiles;
  const int64_t heads = HeadsATile(p, num_threads);
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t first = 0; first < p.R(); first += kTileRows) {
      const int64_t rows = std::min(kTileRows, p.R() - first);
      Range keys{INT64_MAX, 0};
      for (int64_t s = first / p.G(); s <= (first + rows - 1) / p.G(); ++s) {
        const Range visible = VisibleKeys(p, b, s);
        if (visible.is_empty()) continue;
        keys = {std::min(keys.begin, visible.begin), std::max(keys.end, visible.end)};
      }
      if (keys.end == 0) keys = {0, 0};
      for (int64_t k = 0; k < p.K; k += heads) tiles.push_back({b, k, std::min(heads, p.K - k), first, rows, keys});
    }
  }
  return tiles;
}

// Where kKeys keys from `first` on lie in their pages, in units of heads, for a tile's first head. Only `count` of them are keys
// that the tile reads; the places of the others are that of the last.
struct Block {
  int64_t first, count;
  int64_t places[kKeys];

  Block(const Problem& p, const Tile& tile, int64_t first) : first(first) {
    count = std::clamp<int64_t>(tile.keys.end - first, 0, kKeys);
    const int32_t* page = p.table + tile.b * p.P + first / p.page_size;
    int64_t in_page = first % p.page_size;
    for (int64_t t = 0; t < count; ++page, in_page = 0) {
      const int64_t of_page = std::clamp<int64_t>(*page, 0, p.num_pages - 1) * p.page_size;
      for (; in_page < p.page_size && t < count; ++in_page, ++t) places[t] = (of_page + in_page) * p.K + tile.k;
    }
    for (int64_t t = count; t < kKeys; ++t) places[t] = t > 0 ? places[t - 1] : 0;
  }
};

}  // namespace
}  // namespace trellax

#endif  // TRELLAX_KERNELS_PAGED_ATTENTION_PROBLEM_H_
