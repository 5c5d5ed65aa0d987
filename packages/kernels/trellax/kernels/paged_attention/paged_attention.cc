// Attention on keys and values in pages, for decoding and for chunks of prompts.
//
//   trellax_paged_attention(q [B, S, N, H], key_pages, value_pages [num_pages, page_size, K, H], block_table [B, P],
//       positions [B, S], lengths [B], key_scales, value_scales [num_pages, page_size, K] or [0], slopes [N] or [0],
//       out [B, S, N, H])
//
// Axes: B rows, S queries a row, N heads, K kv heads, H head dim, P pages a row.
//
// The keys of a row are cut at multiples of kSplit. A split goes through blocks of kKeys keys with an online softmax; the
// splits are joined from the first to the last. These places, and the order of every sum, depend on nothing else, so a query's
// result is the same, bit for bit, whatever rows and queries are beside it and on any number of threads.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "parallel.h"
#include "problem.h"
#include "products.h"
#include "softmax.h"
#include "xla/ffi/api/ffi.h"

namespace trellax {
namespace {

// What a thread works with, kept from one tile to the next, and from one call to the next.
struct Scratch {
  explicit Scratch(int64_t padded_H)
      : padded_H(padded_H),
        keys(Allocate(padded_H * kKeys)),
        values(Allocate(kKeys * padded_H)),
        query_words(Allocate(kTileRows * padded_H)),
        scores(Allocate(kTileRows * kKeys)),
        first(kTileRows, padded_H),
        later(kTileRows, padded_H) {}

  static Scratch& OfThread(int64_t padded_H) {
    static thread_local std::unique_ptr<Scratch> scratch;
    if (!scratch || scratch->padded_H != padded_H) scratch = std::make_unique<Scratch>(padded_H);
    return *scratch;
  }

  int64_t padded_H;
  Buffer keys;         // [words, kKeys]
  Buffer values;       // [kKeys, padded_H]
  Buffer query_words;  // [kTileRows, words]
  Buffer scores;       // [kTileRows, kKeys], and then weights
  Query queries[kTileRows];
  float key_scales[kKeys], value_scales[kKeys];
  Softmax first, later;  // of the splits
};

template <typename Numbers>
void LoadQueries(const Problem& p, const Tile& tile, Scratch& scratch) {
  for (int64_t i = 0; i < tile.size(); ++i) {
    scratch.queries[i] = Query(p, tile, i);
    Numbers::LoadQuery(p, scratch.queries[i].place, &scratch.query_words[i * Numbers::WordsAQuery(p)]);
  }
}

Scales LoadScales(const Problem& p, const Block& block, int64_t head, Scratch& scratch) {
  if (!p.key_scales) return {};
  for (int64_t t = 0; t < kKeys; ++t) {
    scratch.key_scales[t] = p.key_scales[block.places[t] + head];
    scratch.value_scales[t] = p.value_scales[block.places[t] + head];
  }
  return {scratch.key_scales, scratch.value_scales};
}

// The queries of one head of a tile, on the keys of one block.
template <typename Numbers>
void AttendBlock(const Problem& p, const Tile& tile, int64_t head, const Block& block, Prefetcher& next, Scratch& scratch,
                 Softmax& softmax) {
  const int64_t begin = head * tile.rows;
  int64_t offsets[kKeys];
  for (int64_t t = 0; t < kKeys; ++t) offsets[t] = (block.places[t] + head) * p.H;
  const float* queries = &scratch.query_words[begin * Numbers::WordsAQuery(p)];
  float* scores = scratch.scores.get();
  Scores<Numbers>(p, offsets, block.count, queries, tile.rows, next, scratch.keys.get(), scores);
  const Scales scales = LoadScales(p, block, head, scratch);
  for (int64_t row = 0; row < tile.rows; ++row) {
    AddToSoftmax<Numbers>(p, scratch.queries[begin + row], begin + row, block, scales, scores + row * kKeys, softmax);
  }
  float* sums = &softmax.values[begin * p.padded_H()];
  AddValues<Numbers>(p, offsets, block.count, scores, tile.rows, next, scratch.values.get(), sums);
}

// The softmax of a tile over the keys of one split. While it works on a block, it prefetches the next.
template <typename Numbers>
void AttendSplit(const Problem& p, const Tile& tile, int64_t split, Scratch& scratch, Softmax& softmax) {
  softmax.Clear(tile.size(), p.padded_H());
  const Range keys = tile.KeysOfSplit(split);
  Block block(p, tile, keys.begin);
  while (block.first < keys.end) {
    const Block next(p, tile, block.first + kKeys);
    Prefetcher prefetcher(p, tile.heads, next);
    for (int64_t head = 0; head < tile.heads; ++head) {
      AttendBlock<Numbers>(p, tile, head, block, prefetcher, scratch, softmax);
    }
    block = next;
  }
}

// One thread takes all splits of a tile, one after the other.
template <typename Numbers>
void AttendTile(const Problem& p, const Tile& tile) {
  Scratch& scratch = Scratch::OfThread(p.padded_H());
  LoadQueries<Numbers>(p, tile, scratch);
  AttendSplit<Numbers>(p, tile, tile.first_split(), scratch, scratch.first);
  for (int64_t i = 1; i < tile.num_splits(); ++i) {
    AttendSplit<Numbers>(p, tile, tile.first_split() + i, scratch, scratch.later);
    Join(scratch.later, tile.size(), p.padded_H(), scratch.first);
  }
  StoreResult<Numbers>(p, scratch.queries, tile.size(), scratch.first);
}

// Threads share the splits of each tile, which are joined afterwards.
template <typename Numbers>
void AttendInSplits(ffi::ThreadPool& pool, const Problem& p, const std::vector<Tile>& tiles, double nanoseconds) {
  std::vector<std::pair<int64_t, int64_t>> items;  // tile, split
  std::vector<Softmax> parts;
  for (size_t i = 0; i < tiles.size(); ++i) {
    for (int64_t j = 0; j < std::max<int64_t>(1, tiles[i].num_splits()); ++j) {
      items.emplace_back(i, tiles[i].first_split() + j);
      parts.emplace_back(tiles[i].size(), p.padded_H());
    }
  }
  ParallelFor(pool, items.size(), nanoseconds, [&](int64_t item) {
    const Tile& tile = tiles[items[item].first];
    Scratch& scratch = Scratch::OfThread(p.padded_H());
    LoadQueries<Numbers>(p, tile, scratch);
    AttendSplit<Numbers>(p, tile, items[item].second, scratch, parts[item]);
  });
  Scratch& scratch = Scratch::OfThread(p.padded_H());
  for (size_t item = 0; item < items.size();) {
    const Tile& tile = tiles[items[item].first];
    Softmax& all = parts[item];
    for (++item; item < items.size() && &tiles[items[item].first] == &tile; ++item) {
      Join(parts[item], tile.size(), p.padded_H(), all);
    }
    LoadQueries<Numbers>(p, tile, scratch);
    StoreResult<Numbers>(p, scratch.queries, tile.size(), all);
  }
}

// A rough estimate: a key takes a thread about 25 ns at H = 64, and a pair of a query and a key 2.5 ns.
double NanosecondsOf(const Problem& p, const Tile& tile) {
  const double keys = tile.keys.end - tile.keys.begin;
  return keys * p.H / 64 * (25.0 * tile.heads + 2.5 * tile.size());
}

template <typename Numbers>
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
    return AttendInSplits<Numbers>(pool, p, tiles, nanoseconds);
  }
  ParallelFor(pool, tiles.size(), nanoseconds, [&](int64_t item) { AttendTile<Numbers>(p, tiles[item]); });
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
#ifdef __AVX512BF16__
  if (PairedNumbers::Fit(p)) {
    Attend<PairedNumbers>(pool, p);
    return ffi::Error::Success();
  }
#endif
  if (p.page_type == ffi::F32) {
    Attend<SingleNumbers<ffi::F32>>(pool, p);
  } else if (p.page_type == ffi::BF16) {
    Attend<SingleNumbers<ffi::BF16>>(pool, p);
  } else if (p.page_type == ffi::S8) {
    Attend<SingleNumbers<ffi::S8>>(pool, p);
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
