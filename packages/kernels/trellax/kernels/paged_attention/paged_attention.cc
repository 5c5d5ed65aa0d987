// Attention on keys and values in pages, for decoding and for chunks of prompts.
//
//   trellax_paged_attention(q [B, S, N, H], key_pages, value_pages [num_pages, page_size, K, H], block_table [B, P],
//       positions [B, S], lengths [B], key_scales, value_scales [num_pages, page_size, K] or [0], slopes [N] or [0],
//       out [B, S, N, H])
//
// Axes: B rows, S queries a row, N heads, K kv heads, G query heads a kv head, H head dim, P pages a row, R queries of a kv head
// (R = S·G: those of all its query heads), T keys.
//
// The keys of a row are cut at multiples of kSplit. A split goes through blocks of kKeys keys with an online softmax; the
// splits are joined from the first to the last. These places, and the order of every sum, depend on nothing else, so a query's
// result is the same, bit for bit, whatever rows and queries are beside it and on any number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "functions.h"
#include "parallel.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace trellax {
namespace {

#ifdef __AVX512F__
constexpr int kRows = 6;  // of a product in registers: 24 sums, 4 vectors and a broadcast
constexpr int kVectors = 4;
#else
constexpr int kRows = 3;
constexpr int kVectors = 2;
#endif

constexpr int64_t kKeys = 64;       // of a block
constexpr int64_t kSplit = 256;     // keys that one thread works on at least
constexpr int64_t kTileRows = 96;   // queries that share a block of keys in a thread's cache
constexpr float kLowest = -1e30f;   // less than any score

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

// Keys [begin, end) that a query may read.
struct Range {
  int64_t begin, end;
};

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
  int64_t num_splits() const { return keys.end > keys.begin ? CeilOf(keys.end, kSplit) - first_split() : 0; }
};

// The i-th query of a tile.
struct Query {
  int64_t s, n;

  Query(const Problem& p, const Tile& tile, int64_t i) {
    const int64_t row = tile.first + i % tile.rows;
    s = row / p.G();
    n = (tile.k + i / tile.rows) * p.G() + row % p.G();
  }

  int64_t Place(const Problem& p, const Tile& tile) const { return ((tile.b * p.S + s) * p.N + n) * p.H; }
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
        if (visible.end == visible.begin) continue;
        keys = {std::min(keys.begin, visible.begin), std::max(keys.end, visible.end)};
      }
      if (keys.end == 0) keys = {0, 0};
      for (int64_t k = 0; k < p.K; k += heads) tiles.push_back({b, k, std::min(heads, p.K - k), first, rows, keys});
    }
  }
  return tiles;
}

struct Free {
  void operator()(float* at) const { ::operator delete[](at, std::align_val_t(64)); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer Allocate(int64_t n) { return Buffer(new (std::align_val_t(64)) float[n]); }

// Softmax under way, of the rows of a tile: maximum, sum of exponentials and weighted values.
struct Softmax {
  float max[kTileRows], sum[kTileRows];
  Buffer values;  // [rows, padded_H]

  Softmax(int64_t rows, int64_t padded_H) : values(Allocate(rows * padded_H)) {}

  void Clear(int64_t rows, int64_t padded_H) {
    std::fill(max, max + rows, kLowest);
    std::fill(sum, sum + rows, 0.0f);
    std::fill(values.get(), values.get() + rows * padded_H, 0.0f);
  }
};

// What a thread works with, kept from one tile to the next, and from one call to the next.
struct Scratch {
  explicit Scratch(int64_t padded_H)
      : padded_H(padded_H),
        keys(Allocate(padded_H * kKeys)),
        values(Allocate(kKeys * padded_H)),
        queries(Allocate(kTileRows * padded_H)),
        scores(Allocate(kTileRows * kKeys)),
        split(kTileRows, padded_H),
        all(kTileRows, padded_H) {}

  static Scratch& OfThread(int64_t padded_H) {
    static thread_local std::unique_ptr<Scratch> scratch;
    if (!scratch || scratch->padded_H != padded_H) scratch = std::make_unique<Scratch>(padded_H);
    return *scratch;
  }

  int64_t padded_H;
  Buffer keys;     // [H, kKeys]
  Buffer values;   // [kKeys, padded_H]
  Buffer queries;  // [kTileRows, padded_H], scaled
  Buffer scores;   // [kTileRows, kKeys], and then their exponentials
  Softmax split, all;
};

// Sixteen numbers of a head.
template <ffi::DataType kType>
TRELLAX_INLINE Floats LoadLanes(const void* from, int64_t index) {
  if constexpr (kType == ffi::F32) return Load(static_cast<const float*>(from) + index);
  if constexpr (kType == ffi::BF16) return LoadBfloat16(static_cast<const uint16_t*>(from) + index);
  if constexpr (kType == ffi::S8) return LoadInt8(static_cast<const int8_t*>(from) + index);
}

// The last `left` numbers of a head whose dim is no multiple of sixteen, and zeros.
template <ffi::DataType kType>
Floats LoadSomeLanes(const void* from, int64_t index, int64_t left) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < left; ++i) {
    if (kType == ffi::F32) lanes[i] = static_cast<const float*>(from)[index + i];
    if (kType == ffi::BF16) lanes[i] = FromBfloat16(static_cast<const uint16_t*>(from)[index + i]);
    if (kType == ffi::S8) lanes[i] = static_cast<const int8_t*>(from)[index + i];
  }
  return Load(lanes);
}

template <ffi::DataType kType>
TRELLAX_INLINE Floats LoadHead(const void* from, int64_t index, int64_t left) {
  return left >= kLanes ? LoadLanes<kType>(from, index) : LoadSomeLanes<kType>(from, index, left);
}

constexpr int64_t BytesOf(ffi::DataType type) { return type == ffi::F32 ? 4 : type == ffi::BF16 ? 2 : 1; }

// Where the keys of a block lie in their pages, in units of heads, for a tile's first head.
struct Block {
  int64_t first = 0, count = 0;
  int64_t places[kKeys];

  Block(const Problem& p, const Tile& tile, int64_t first) : first(first) {
    count = std::clamp<int64_t>(tile.keys.end - first, 0, kKeys);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t page = p.table[tile.b * p.P + (first + t) / p.page_size];
      const int64_t place = std::clamp<int64_t>(page, 0, p.num_pages - 1) * p.page_size + (first + t) % p.page_size;
      places[t] = place * p.K + tile.k;
    }
  }
};

// Asks for the next block's keys and values, of all heads of a tile, before they are needed. It does so in the order in which they
// lie in memory, so that the hardware foresees the rest, and a few at a time, since a CPU drops what it has no room for.
template <ffi::DataType kType>
struct Prefetcher {
  const Problem& p;
  const Block& block;
  int64_t bytes;  // of a key of all heads
  int64_t t = 0, byte = 0;

  Prefetcher(const Problem& p, const Tile& tile, const Block& block)
      : p(p), block(block), bytes(tile.heads * p.H * BytesOf(kType)) {}

  // Inlined, because compilers take a function that only prefetches for one that does nothing.
  TRELLAX_INLINE void Some(int64_t lines) {
    for (; lines > 0 && t < block.count; --lines) {
      const int64_t at = block.places[t] * p.H * BytesOf(kType) + byte;
      __builtin_prefetch(static_cast<const char*>(p.key_pages) + at, 0, 2);
      __builtin_prefetch(static_cast<const char*>(p.value_pages) + at, 0, 2);
      byte += 64;
      if (byte >= bytes) ++t, byte = 0;
    }
  }
};

// Sixteen numbers, from `h` on, of up to sixteen keys, as columns of scratch.keys.
template <ffi::DataType kType>
TRELLAX_INLINE void LoadKeys(const Problem& p, const int64_t* places, int64_t t, int64_t count, int64_t h, Scratch& scratch) {
  Floats rows[kLanes];
  if (count - t >= kLanes && p.H - h >= kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = LoadLanes<kType>(p.key_pages, places[t + i] * p.H + h);
  } else {
    for (int i = 0; i < kLanes; ++i) {
      rows[i] = t + i < count ? LoadHead<kType>(p.key_pages, places[t + i] * p.H + h, p.H - h) : Zero();
    }
  }
  if (kType == ffi::S8) {
    for (int i = 0; i < kLanes && t + i < count; ++i) rows[i] *= p.key_scales[places[t + i]];
  }
  Transpose(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) Store(&scratch.keys[(h + i) * kKeys + t], rows[i]);
}

// Copies a block's keys of one head of a tile as columns, and their values as rows; columns beyond them are zeros.
template <ffi::DataType kType>
void LoadBlock(const Problem& p, const Block& block, int64_t head, Prefetcher<kType>& next, Scratch& scratch) {
  const int64_t padded_H = p.padded_H(), lines = CeilOf(p.H * BytesOf(kType), 64);
  int64_t places[kKeys];
  for (int64_t t = 0; t < block.count; ++t) places[t] = block.places[t] + head;
  for (int64_t t = 0; t < kKeys; t += kLanes) {
    for (int64_t h = 0; h < padded_H; h += kLanes) {
      next.Some(CeilOf(lines * kLanes * kLanes, 2 * padded_H));  // half of the lines during these copies
      LoadKeys<kType>(p, places, t, block.count, h, scratch);
    }
  }
  for (int64_t t = 0; t < block.count; ++t) {
    next.Some(CeilOf(lines, 2));
    float* to = &scratch.values[t * padded_H];
    for (int64_t h = 0; h < padded_H; h += kLanes) {
      Floats value = LoadHead<kType>(p.value_pages, places[t] * p.H + h, p.H - h);
      if (kType == ffi::S8) value *= p.value_scales[places[t]];
      Store(to + h, value);
    }
  }
}

// to[R, 16 V] (+)= a[R, depth] b[depth, 16 V]
template <bool kAdd, int R, int V>
void Product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* to, int64_t to_stride) {
  Floats sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = kAdd ? Load(to + r * to_stride + v * kLanes) : Zero();
  }
  for (int64_t d = 0; d < depth; ++d) {
    Floats b_d[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b_d[v] = Load(b + d * b_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Floats a_rd = Broadcast(a[r * a_stride + d]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = MultiplyAdd(a_rd, b_d[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) Store(to + r * to_stride + v * kLanes, sums[r][v]);
  }
}

template <bool kAdd, int V, int... R>
auto ProductOf(int64_t rows, std::integer_sequence<int, R...>) {
  using Fn = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t);
  static constexpr Fn kProducts[] = {Product<kAdd, R + 1, V>...};
  return kProducts[rows - 1];
}

// The same for any number of rows and columns (in multiples of sixteen).
template <bool kAdd>
void Products(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* to,
              int64_t to_stride, int64_t rows, int64_t columns) {
  constexpr auto kAnyRows = std::make_integer_sequence<int, kRows>{};
  for (int64_t c = 0; c < columns;) {
    const bool is_wide = columns - c >= kVectors * kLanes;
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t some = std::min<int64_t>(kRows, rows - r);
      const auto product = is_wide ? ProductOf<kAdd, kVectors>(some, kAnyRows) : ProductOf<kAdd, 1>(some, kAnyRows);
      product(a + r * a_stride, a_stride, b + c, b_stride, depth, to + r * to_stride + c, to_stride);
    }
    c += is_wide ? kVectors * kLanes : kLanes;
  }
}

constexpr int64_t kScoreVectors = kKeys / kLanes;

// Caps and biases one query's scores of the block's keys, and hides those outside of `visible` (counted from the block's first).
void FinishScores(const Problem& p, Range visible, float slope, float distance, Floats (&scores)[kScoreVectors]) {
  const Floats lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t v = 0; v < kScoreVectors; ++v) {
    const Floats key = lanes + static_cast<float>(v * kLanes);
    if (p.soft_cap > 0) scores[v] = p.soft_cap * Tanh(scores[v] / p.soft_cap);
    if (p.slopes) scores[v] -= slope * (distance - key);
    if (visible.begin <= v * kLanes && visible.end >= (v + 1) * kLanes) continue;
    const auto is_visible = (key >= static_cast<float>(visible.begin)) & (key < static_cast<float>(visible.end));
    scores[v] = is_visible ? scores[v] : Broadcast(kLowest);
  }
}

// Turns the scores of a tile's i-th query into exponentials, and shrinks its sums to the new maximum.
void AddToSoftmax(const Problem& p, const Tile& tile, int64_t i, int64_t first, float* at, Softmax& softmax) {
  const Query query(p, tile, i);
  const Range keys = VisibleKeys(p, tile.b, query.s);
  const Range visible{std::max<int64_t>(keys.begin - first, 0), std::min<int64_t>(keys.end - first, kKeys)};
  if (visible.end <= visible.begin) {
    std::fill(at, at + kKeys, 0.0f);
    return;
  }
  Floats scores[kScoreVectors];
  for (int64_t v = 0; v < kScoreVectors; ++v) scores[v] = Load(at + v * kLanes);
  const float distance = static_cast<float>(p.positions[tile.b * p.S + query.s] - first);
  FinishScores(p, visible, p.slopes ? p.slopes[query.n] : 0.0f, distance, scores);
  Floats largest = scores[0];
  for (int64_t v = 1; v < kScoreVectors; ++v) largest = Max(largest, scores[v]);
  const float max = std::max(softmax.max[i], LargestOf(largest));
  Floats sum = Zero();
  for (int64_t v = 0; v < kScoreVectors; ++v) {
    const Floats weight = Exp(scores[v] - max);
    scores[v] = scores[v] > kLowest ? weight : Zero();
    sum += scores[v];
    Store(at + v * kLanes, scores[v]);
  }
  const float shrink = Exp(softmax.max[i] - max);
  softmax.max[i] = max;
  softmax.sum[i] = softmax.sum[i] * shrink + SumOf(sum);
  float* values = softmax.values.get() + i * p.padded_H();
  for (int64_t h = 0; h < p.padded_H(); h += kLanes) Store(values + h, Load(values + h) * shrink);
}

void LoadQueries(const Problem& p, const Tile& tile, Scratch& scratch) {
  for (int64_t i = 0; i < tile.size(); ++i) {
    const int64_t place = Query(p, tile, i).Place(p, tile);
    for (int64_t h = 0; h < p.padded_H(); h += kLanes) {
      const Floats q = p.q_type == ffi::F32 ? LoadHead<ffi::F32>(p.q, place + h, p.H - h)
                                            : LoadHead<ffi::BF16>(p.q, place + h, p.H - h);
      Store(&scratch.queries[i * p.padded_H() + h], q * p.scale);
    }
  }
}

// The softmax of a tile over the keys of one split.
template <ffi::DataType kType>
void AttendSplit(const Problem& p, const Tile& tile, int64_t split, Scratch& scratch, Softmax& softmax) {
  const int64_t padded_H = p.padded_H();
  softmax.Clear(tile.size(), padded_H);
  const int64_t end = std::min(tile.keys.end, (split + 1) * kSplit);
  const int64_t begin = std::max(tile.keys.begin / kKeys * kKeys, split * kSplit);
  Block block(p, tile, begin);
  while (block.first < end) {
    const Block next(p, tile, block.first + kKeys);
    Prefetcher<kType> prefetcher(p, tile, next);
    for (int64_t head = 0; head < tile.heads; ++head) {
      LoadBlock<kType>(p, block, head, prefetcher, scratch);
      const int64_t of_head = head * tile.rows;
      Products<false>(&scratch.queries[of_head * padded_H], padded_H, scratch.keys.get(), kKeys, p.H,
                      scratch.scores.get(), kKeys, tile.rows, kKeys);
      for (int64_t row = 0; row < tile.rows; ++row) {
        AddToSoftmax(p, tile, of_head + row, block.first, &scratch.scores[row * kKeys], softmax);
      }
      Products<true>(scratch.scores.get(), kKeys, scratch.values.get(), padded_H, block.count,
                     &softmax.values[of_head * padded_H], padded_H, tile.rows, padded_H);
    }
    block = next;
  }
}

// Joins the softmax of a later split to that of all before it.
void Join(const Softmax& later, int64_t rows, int64_t padded_H, Softmax& all) {
  for (int64_t row = 0; row < rows; ++row) {
    if (later.sum[row] == 0) continue;
    const float max = std::max(all.max[row], later.max[row]);
    const float shrink = Exp(all.max[row] - max), shrink_later = Exp(later.max[row] - max);
    all.max[row] = max;
    all.sum[row] = all.sum[row] * shrink + later.sum[row] * shrink_later;
    float* to = all.values.get() + row * padded_H;
    const float* from = later.values.get() + row * padded_H;
    for (int64_t h = 0; h < padded_H; h += kLanes) {
      Store(to + h, MultiplyAdd(Load(from + h), Broadcast(shrink_later), Load(to + h) * shrink));
    }
  }
}

void StoreResult(const Problem& p, const Tile& tile, const Softmax& softmax) {
  for (int64_t i = 0; i < tile.size(); ++i) {
    const int64_t place = Query(p, tile, i).Place(p, tile);
    const float factor = softmax.sum[i] > 0 ? 1.0f / softmax.sum[i] : 0.0f;
    const float* values = &softmax.values[i * p.padded_H()];
    for (int64_t h = 0; h < p.H; ++h) {
      if (p.q_type == ffi::F32) {
        static_cast<float*>(p.out)[place + h] = values[h] * factor;
      } else {
        static_cast<uint16_t*>(p.out)[place + h] = ToBfloat16(values[h] * factor);
      }
    }
  }
}

// One thread takes all splits of a tile, one after the other.
template <ffi::DataType kType>
void AttendTile(const Problem& p, const Tile& tile) {
  Scratch& scratch = Scratch::OfThread(p.padded_H());
  scratch.all.Clear(tile.size(), p.padded_H());
  LoadQueries(p, tile, scratch);
  for (int64_t i = 0; i < tile.num_splits(); ++i) {
    AttendSplit<kType>(p, tile, tile.first_split() + i, scratch, scratch.split);
    Join(scratch.split, tile.size(), p.padded_H(), scratch.all);
  }
  StoreResult(p, tile, scratch.all);
}

// Threads share the splits of each tile, which are joined afterwards.
template <ffi::DataType kType>
void AttendInSplits(ffi::ThreadPool& pool, const Problem& p, const std::vector<Tile>& tiles, double nanoseconds) {
  std::vector<std::pair<int64_t, int64_t>> items;  // tile, split
  std::vector<Softmax> parts;
  for (size_t i = 0; i < tiles.size(); ++i) {
    for (int64_t j = 0; j < tiles[i].num_splits(); ++j) {
      items.emplace_back(i, tiles[i].first_split() + j);
      parts.emplace_back(tiles[i].size(), p.padded_H());
    }
  }
  ParallelFor(pool, items.size(), nanoseconds, [&](int64_t item) {
    const Tile& tile = tiles[items[item].first];
    Scratch& scratch = Scratch::OfThread(p.padded_H());
    LoadQueries(p, tile, scratch);
    AttendSplit<kType>(p, tile, items[item].second, scratch, parts[item]);
  });
  Softmax& all = Scratch::OfThread(p.padded_H()).all;
  size_t item = 0;
  for (const Tile& tile : tiles) {
    all.Clear(tile.size(), p.padded_H());
    for (int64_t j = 0; j < tile.num_splits(); ++j) Join(parts[item++], tile.size(), p.padded_H(), all);
    StoreResult(p, tile, all);
  }
}

// A rough estimate: a key takes a thread about 25 ns at H = 64, and a pair of a query and a key 2.5 ns.
double NanosecondsOf(const Problem& p, const Tile& tile) {
  const double keys = tile.keys.end - tile.keys.begin;
  return keys * p.H / 64 * (25.0 * tile.heads + 2.5 * tile.size());
}

template <ffi::DataType kType>
void Attend(ffi::ThreadPool& pool, const Problem& p) {
  const int64_t num_threads = std::max<int64_t>(pool.num_threads(), 1);
  const std::vector<Tile> tiles = MakeTiles(p, num_threads);
  int64_t all_splits = 0, most_splits = 0;
  double nanoseconds = 0;
  for (const Tile& tile : tiles) {
    nanoseconds += NanosecondsOf(p, tile);
    all_splits += tile.num_splits();
    most_splits = std::max(most_splits, tile.num_splits());
  }
  if (num_threads > 1 && most_splits > 1 && most_splits * num_threads * 2 > all_splits) {
    return AttendInSplits<kType>(pool, p, tiles, nanoseconds);
  }
  ParallelFor(pool, tiles.size(), nanoseconds, [&](int64_t item) { AttendTile<kType>(p, tiles[item]); });
}

template <typename Buffer>
const float* DataOrNull(Buffer& buffer) {
  return buffer.element_count() ? buffer.typed_data() : nullptr;
}

ffi::Error PagedAttention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer key_pages, ffi::AnyBuffer value_pages,
                          ffi::Buffer<ffi::S32> table, ffi::Buffer<ffi::S32> positions, ffi::Buffer<ffi::S32> lengths,
                          ffi::Buffer<ffi::F32> key_scales, ffi::Buffer<ffi::F32> value_scales,
                          ffi::Buffer<ffi::F32> slopes, ffi::Result<ffi::AnyBuffer> out, float scale, float soft_cap,
                          int64_t is_causal, int64_t window) {
  const auto rows = q.dimensions(), pages = key_pages.dimensions();
  Problem p{};
  p.q = q.untyped_data();
  p.key_pages = key_pages.untyped_data();
  p.value_pages = value_pages.untyped_data();
  p.q_type = q.element_type();
  p.page_type = key_pages.element_type();
  p.key_scales = DataOrNull(key_scales);
  p.value_scales = DataOrNull(value_scales);
  p.slopes = DataOrNull(slopes);
  p.table = table.typed_data();
  p.positions = positions.typed_data();
  p.lengths = lengths.typed_data();
  p.B = rows[0], p.S = rows[1], p.N = rows[2], p.H = rows[3];
  p.num_pages = pages[0], p.page_size = pages[1], p.K = pages[2];
  p.P = table.dimensions()[1];
  p.scale = scale;
  p.soft_cap = soft_cap;
  p.is_causal = is_causal != 0;
  p.window = window;
  p.out = out->untyped_data();
  if (p.page_type == ffi::F32) {
    Attend<ffi::F32>(pool, p);
  } else if (p.page_type == ffi::BF16) {
    Attend<ffi::BF16>(pool, p);
  } else if (p.page_type == ffi::S8) {
    Attend<ffi::S8>(pool, p);
  } else {
    return ffi::Error::InvalidArgument("trellax_paged_attention: unknown type of pages");
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace trellax

XLA_FFI_DEFINE_HANDLER_SYMBOL(trellax_paged_attention, trellax::PagedAttention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()         // q
                                  .Arg<ffi::AnyBuffer>()         // key_pages
                                  .Arg<ffi::AnyBuffer>()         // value_pages
                                  .Arg<ffi::Buffer<ffi::S32>>()  // block_table
                                  .Arg<ffi::Buffer<ffi::S32>>()  // positions
                                  .Arg<ffi::Buffer<ffi::S32>>()  // lengths
                                  .Arg<ffi::Buffer<ffi::F32>>()  // key_scales
                                  .Arg<ffi::Buffer<ffi::F32>>()  // value_scales
                                  .Arg<ffi::Buffer<ffi::F32>>()  // slopes
                                  .Ret<ffi::AnyBuffer>()         // out
                                  .Attr<float>("scale")
                                  .Attr<float>("soft_cap")
                                  .Attr<int64_t>("is_causal")
                                  .Attr<int64_t>("window"));
