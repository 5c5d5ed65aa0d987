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

#include "math.h"
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
constexpr int64_t kTileRows = 48;   // queries that share a block of keys in a thread's cache
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

// One kv head's queries [first, first + rows) of a row b.
struct Tile {
  int64_t b, k, first, rows;
  Range keys;  // that any of them may read

  int64_t first_split() const { return keys.begin / kSplit; }
  int64_t num_splits() const { return keys.end > keys.begin ? CeilOf(keys.end, kSplit) - first_split() : 0; }
};

Tile MakeTile(const Problem& p, int64_t index) {
  const int64_t tile = index % p.num_tiles(), k = index / p.num_tiles() % p.K, b = index / p.num_tiles() / p.K;
  const int64_t first = tile * kTileRows, rows = std::min(kTileRows, p.R() - first);
  Range keys{INT64_MAX, 0};
  for (int64_t s = first / p.G(); s <= (first + rows - 1) / p.G(); ++s) {
    const Range visible = VisibleKeys(p, b, s);
    if (visible.end == visible.begin) continue;
    keys = {std::min(keys.begin, visible.begin), std::max(keys.end, visible.end)};
  }
  return {b, k, first, rows, keys.end ? keys : Range{0, 0}};
}

// A thread's own memory.
struct Scratch {
  explicit Scratch(int64_t padded_H)
      : keys(Allocate(padded_H * kKeys)),
        values(Allocate(kKeys * padded_H)),
        queries(Allocate(kTileRows * padded_H)),
        scores(Allocate(kTileRows * kKeys)) {}

  struct Free {
    void operator()(float* at) const { ::operator delete[](at, std::align_val_t(64)); }
  };
  using Buffer = std::unique_ptr<float[], Free>;
  static Buffer Allocate(int64_t n) { return Buffer(new (std::align_val_t(64)) float[n]); }

  Buffer keys;     // [H, kKeys]
  Buffer values;   // [kKeys, padded_H]
  Buffer queries;  // [kTileRows, padded_H], scaled
  Buffer scores;   // [kTileRows, kKeys], and then their exponentials
};

// Softmax under way, of the rows of a tile: maximum, sum of exponentials and weighted values.
struct Softmax {
  float max[kTileRows], sum[kTileRows];
  std::unique_ptr<float[]> values;  // [kTileRows, padded_H]

  explicit Softmax(int64_t padded_H) : values(new float[kTileRows * padded_H]) {}

  void Clear(int64_t rows, int64_t padded_H) {
    std::fill(max, max + rows, kLowest);
    std::fill(sum, sum + rows, 0.0f);
    std::fill(values.get(), values.get() + rows * padded_H, 0.0f);
  }
};

// Sixteen numbers of a head from `h` on; what lies past the head dim is zero.
TRELLAX_INLINE Floats LoadHead(const void* from, ffi::DataType type, int64_t index, int64_t left) {
  if (left >= kLanes) {
    if (type == ffi::F32) return Load(static_cast<const float*>(from) + index);
    if (type == ffi::BF16) return LoadBfloat16(static_cast<const uint16_t*>(from) + index);
    return LoadInt8(static_cast<const int8_t*>(from) + index);
  }
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < left; ++i) {
    if (type == ffi::F32) {
      lanes[i] = static_cast<const float*>(from)[index + i];
    } else if (type == ffi::BF16) {
      lanes[i] = FromBfloat16(static_cast<const uint16_t*>(from)[index + i]);
    } else {
      lanes[i] = static_cast<const int8_t*>(from)[index + i];
    }
  }
  return Load(lanes);
}

// Where a key lies in its pages, in units of heads.
int64_t PlaceOf(const Problem& p, const Tile& tile, int64_t key) {
  const int64_t page = p.table[tile.b * p.P + key / p.page_size];
  return (std::clamp<int64_t>(page, 0, p.num_pages - 1) * p.page_size + key % p.page_size) * p.K + tile.k;
}

// Copies `count` keys from `first` on as columns, and their values as rows; zeros beyond them.
template <ffi::DataType kType>
void LoadBlock(const Problem& p, const Tile& tile, int64_t first, int64_t count, Scratch& scratch) {
  const int64_t padded_H = p.padded_H();
  int64_t places[kKeys];
  float key_scales[kKeys];
  for (int64_t t = 0; t < count; ++t) {
    places[t] = PlaceOf(p, tile, first + t);
    key_scales[t] = p.key_scales ? p.key_scales[places[t]] : 1.0f;
  }
  for (int64_t t = 0; t < kKeys; t += kLanes) {
    for (int64_t h = 0; h < padded_H; h += kLanes) {
      Floats rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = Zero();
        if (t + i >= count) continue;
        rows[i] = LoadHead(p.key_pages, kType, places[t + i] * p.H + h, p.H - h);
        if (kType == ffi::S8) rows[i] *= key_scales[t + i];
      }
      Transpose(rows);
      for (int i = 0; i < kLanes; ++i) Store(&scratch.keys[(h + i) * kKeys + t], rows[i]);
    }
  }
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t h = 0; h < padded_H; h += kLanes) {
      Floats value = LoadHead(p.value_pages, kType, places[t] * p.H + h, p.H - h);
      if (kType == ffi::S8) value *= p.value_scales[places[t]];
      Store(&scratch.values[t * padded_H + h], value);
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

// Turns one query's scores into exponentials, and shrinks its sums to the new maximum.
void AddToSoftmax(const Problem& p, const Tile& tile, int64_t row, int64_t first, float* at, Softmax& softmax) {
  const int64_t s = (tile.first + row) / p.G(), n = tile.k * p.G() + (tile.first + row) % p.G();
  const Range keys = VisibleKeys(p, tile.b, s);
  const Range visible{std::max<int64_t>(keys.begin - first, 0), std::min<int64_t>(keys.end - first, kKeys)};
  if (visible.end <= visible.begin) {
    std::fill(at, at + kKeys, 0.0f);
    return;
  }
  Floats scores[kScoreVectors];
  for (int64_t v = 0; v < kScoreVectors; ++v) scores[v] = Load(at + v * kLanes);
  const float distance = static_cast<float>(p.positions[tile.b * p.S + s] - first);
  FinishScores(p, visible, p.slopes ? p.slopes[n] : 0.0f, distance, scores);
  Floats largest = scores[0];
  for (int64_t v = 1; v < kScoreVectors; ++v) largest = Max(largest, scores[v]);
  const float max = std::max(softmax.max[row], LargestOf(largest));
  Floats sum = Zero();
  for (int64_t v = 0; v < kScoreVectors; ++v) {
    const Floats weight = Exp(scores[v] - max);
    scores[v] = scores[v] > kLowest ? weight : Zero();
    sum += scores[v];
    Store(at + v * kLanes, scores[v]);
  }
  const float shrink = Exp(softmax.max[row] - max);
  softmax.max[row] = max;
  softmax.sum[row] = softmax.sum[row] * shrink + SumOf(sum);
  float* values = softmax.values.get() + row * p.padded_H();
  for (int64_t h = 0; h < p.padded_H(); h += kLanes) Store(values + h, Load(values + h) * shrink);
}

void LoadQueries(const Problem& p, const Tile& tile, Scratch& scratch) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t s = (tile.first + row) / p.G(), n = tile.k * p.G() + (tile.first + row) % p.G();
    for (int64_t h = 0; h < p.padded_H(); h += kLanes) {
      const Floats q = LoadHead(p.q, p.q_type, ((tile.b * p.S + s) * p.N + n) * p.H + h, p.H - h);
      Store(&scratch.queries[row * p.padded_H() + h], q * p.scale);
    }
  }
}

// The softmax of a tile over the keys of one split.
template <ffi::DataType kType>
void AttendSplit(const Problem& p, const Tile& tile, int64_t split, Scratch& scratch, Softmax& softmax) {
  const int64_t padded_H = p.padded_H();
  softmax.Clear(tile.rows, padded_H);
  const int64_t end = std::min(tile.keys.end, (split + 1) * kSplit);
  const int64_t begin = std::max(tile.keys.begin / kKeys * kKeys, split * kSplit);
  for (int64_t first = begin; first < end; first += kKeys) {
    const int64_t count = std::min(kKeys, end - first);
    LoadBlock<kType>(p, tile, first, count, scratch);
    Products<false>(scratch.queries.get(), padded_H, scratch.keys.get(), kKeys, p.H, scratch.scores.get(), kKeys,
                    tile.rows, kKeys);
    for (int64_t row = 0; row < tile.rows; ++row) {
      AddToSoftmax(p, tile, row, first, &scratch.scores[row * kKeys], softmax);
    }
    Products<true>(scratch.scores.get(), kKeys, scratch.values.get(), padded_H, count, softmax.values.get(), padded_H,
                   tile.rows, padded_H);
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
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t s = (tile.first + row) / p.G(), n = tile.k * p.G() + (tile.first + row) % p.G();
    const int64_t at = ((tile.b * p.S + s) * p.N + n) * p.H;
    const float factor = softmax.sum[row] > 0 ? 1.0f / softmax.sum[row] : 0.0f;
    const float* values = softmax.values.get() + row * p.padded_H();
    for (int64_t h = 0; h < p.H; ++h) {
      if (p.q_type == ffi::F32) {
        static_cast<float*>(p.out)[at + h] = values[h] * factor;
      } else {
        static_cast<uint16_t*>(p.out)[at + h] = ToBfloat16(values[h] * factor);
      }
    }
  }
}

// One thread takes all splits of a tile, one after the other.
template <ffi::DataType kType>
void AttendTile(const Problem& p, const Tile& tile) {
  Scratch scratch(p.padded_H());
  Softmax all(p.padded_H()), split(p.padded_H());
  all.Clear(tile.rows, p.padded_H());
  LoadQueries(p, tile, scratch);
  for (int64_t i = 0; i < tile.num_splits(); ++i) {
    AttendSplit<kType>(p, tile, tile.first_split() + i, scratch, split);
    Join(split, tile.rows, p.padded_H(), all);
  }
  StoreResult(p, tile, all);
}

// Threads share the splits of each tile, which are joined afterwards.
template <ffi::DataType kType>
void AttendInSplits(ffi::ThreadPool& pool, const Problem& p, const std::vector<Tile>& tiles) {
  std::vector<std::pair<int64_t, int64_t>> items;  // tile, split
  std::vector<Softmax> parts;
  for (size_t i = 0; i < tiles.size(); ++i) {
    for (int64_t j = 0; j < tiles[i].num_splits(); ++j) {
      items.emplace_back(i, tiles[i].first_split() + j);
      parts.emplace_back(p.padded_H());
    }
  }
  ParallelFor(pool, items.size(), [&](int64_t item) {
    const Tile& tile = tiles[items[item].first];
    Scratch scratch(p.padded_H());
    LoadQueries(p, tile, scratch);
    AttendSplit<kType>(p, tile, items[item].second, scratch, parts[item]);
  });
  Softmax all(p.padded_H());
  size_t item = 0;
  for (const Tile& tile : tiles) {
    all.Clear(tile.rows, p.padded_H());
    for (int64_t j = 0; j < tile.num_splits(); ++j) Join(parts[item++], tile.rows, p.padded_H(), all);
    StoreResult(p, tile, all);
  }
}

template <ffi::DataType kType>
void Attend(ffi::ThreadPool& pool, const Problem& p) {
  std::vector<Tile> tiles;
  int64_t all_splits = 0, most_splits = 0;
  for (int64_t i = 0; i < p.B * p.K * p.num_tiles(); ++i) {
    tiles.push_back(MakeTile(p, i));
    all_splits += tiles.back().num_splits();
    most_splits = std::max(most_splits, tiles.back().num_splits());
  }
  const int64_t num_threads = std::max<int64_t>(pool.num_threads(), 1);
  if (num_threads > 1 && most_splits > 1 && most_splits * num_threads * 2 > all_splits) {
    return AttendInSplits<kType>(pool, p, tiles);
  }
  ParallelFor(pool, tiles.size(), [&](int64_t item) { AttendTile<kType>(p, tiles[item]); });
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
