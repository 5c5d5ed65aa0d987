// Sixteen numbers of any type of a head: reading them from a page, asking for them before they are needed, storing them.

#ifndef TRELLAX_KERNELS_PAGED_ATTENTION_PAGES_H_
#define TRELLAX_KERNELS_PAGED_ATTENTION_PAGES_H_

#include "problem.h"

namespace trellax {
namespace {  // nothing is shared with other libraries of the process

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

// As `ToBfloat16`, sixteen at once.
TRELLAX_INLINE Halves ToBfloat16(Floats x) {
  const Words bits = (Words)x, upper = bits >> 16;
  const auto is_no_number = (bits & 0x7fffffffu) > 0x7f800000u;
  const Words rounded = is_no_number ? upper | 0x40 : (bits + 0x7fffu + (upper & 1)) >> 16;
#ifdef __AVX512F__
  return (Halves)_mm512_cvtepi32_epi16((__m512i)rounded);
#else
  return __builtin_convertvector(rounded, Halves);
#endif
}

// Stores sixteen numbers of a head, or those of them that are left.
template <ffi::DataType kType>
TRELLAX_INLINE void StoreHead(Floats numbers, void* to, int64_t index, int64_t left) {
  const auto store = [&](const auto& typed, auto* at) {
    if (left >= kLanes) {
      std::memcpy(at, &typed, sizeof(typed));
    } else {
      std::memcpy(at, &typed, left * sizeof(*at));
    }
  };
  if constexpr (kType == ffi::F32) {
    store(numbers, static_cast<float*>(to) + index);
  } else {
    store(ToBfloat16(numbers), static_cast<uint16_t*>(to) + index);
  }
}

constexpr int64_t BytesOf(ffi::DataType type) { return type == ffi::F32 ? 4 : type == ffi::BF16 ? 2 : 1; }

// Asks for a later block's keys and values, of all heads of its tile. It does so in the order in which they lie in memory, so that the
// hardware foresees the rest, and a few at a time, since a CPU drops what it has no room for.
struct Prefetcher {
  const char *keys, *values;
  const Block& block;
  int64_t head_bytes, key_bytes;  // of a key of one head, and of all heads of the tile
  int64_t t = 0, byte = 0;

  Prefetcher(const Problem& p, int64_t heads, const Block& block)
      : keys(static_cast<const char*>(p.key_pages)),
        values(static_cast<const char*>(p.value_pages)),
        block(block),
        head_bytes(p.H * BytesOf(p.page_type)),
        key_bytes(heads * head_bytes) {}

  // How many lines to ask for in each of the steps that go through a block's keys, or through its values, of one head.
  int64_t LinesAStep(int64_t steps) const { return CeilOf(kKeys * CeilOf(head_bytes, 64), 2 * steps); }

  // Inlined, because compilers take a function that only prefetches for one that does nothing.
  TRELLAX_INLINE void Some(int64_t lines) {
    for (; lines > 0 && t < block.count; --lines) {
      const int64_t at = block.places[t] * head_bytes + byte;
      __builtin_prefetch(keys + at, 0, 2);
      __builtin_prefetch(values + at, 0, 2);
      byte += 64;
      if (byte >= key_bytes) ++t, byte = 0;
    }
  }
};

}  // namespace
}  // namespace trellax

#endif  // TRELLAX_KERNELS_PAGED_ATTENTION_PAGES_H_
