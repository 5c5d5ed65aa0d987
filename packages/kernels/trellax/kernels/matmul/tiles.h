// Tiles of a product: some rows of x times some panels of a weight, in registers.
//
//   Tile<Bfloat16Dots, 12, 2>(problem, row, panel)
//
// Axes as in matmul.cc.

#ifndef TRELLAX_KERNELS_MATMUL_TILES_H_
#define TRELLAX_KERNELS_MATMUL_TILES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace trellax {
namespace {

#ifdef __AVX512F__
constexpr int kRows = 12;  // 24 sums, 2 vectors of weights and a broadcast in 32 registers
constexpr int kIntegerRows = 8;  // half of whose sums, of integers and of groups, are in memory
constexpr int kPanels = 2;
#else
constexpr int kRows = 6;
constexpr int kIntegerRows = 3;
constexpr int kPanels = 1;
#endif

constexpr int64_t kPrefetchBytes = 2048;  // ahead in each panel: pages of 4 KiB stop the hardware's own prefetching

enum Format : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kInt4 = 3, kInt8Dynamic = 4 };

// What one thread needs to compute any tile. X is what the inner loop reads: float, or uint32_t for pairs of bfloat16 and for
// four integers.
template <typename X>
struct Problem {
  const X* x;          // [M, x_stride]
  int64_t x_stride;    // in elements of X
  const char* values;  // of this layer
  const float* scales; // of this layer: [P, D / group_size, 16]
  int64_t panel_bytes;
  int64_t M, D, F, group_size;
  void* out;  // [M, F]
  bool out_is_bfloat16;
  const float* x_scales;     // [M, D / group_size], where x is rounded to integers, or null
  const int32_t* x_offsets;  // [M, D / group_size]: what sums begin with, since weights are stored with 128 added

  int64_t num_groups() const { return D / group_size; }
};

enum Kind { kInOneSum, kInGroups, kInIntegers };

// The most rows of a tile.
template <typename Weights>
constexpr int kRowsOf = Weights::kKind == kInIntegers ? kIntegerRows : kRows;

template <int R, int N>
using Sums = Floats[R][N];

// Unrolled, since compilers call memset for an array in memory, which takes as long as a group's products.
template <int R, int N>
TRELLAX_INLINE void Clear(Sums<R, N>& sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[r][n] = Zero();
  }
}

template <int R, int N>
TRELLAX_INLINE void AddRows(Sums<R, N>& sums, const Floats (&weights)[N], const float* x, int64_t x_stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Floats x_r = Broadcast(x[r * x_stride]);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[r][n] = MultiplyAdd(x_r, weights[n], sums[r][n]);
  }
}

TRELLAX_INLINE void PrefetchPanel(const char* at) { __builtin_prefetch(at + kPrefetchBytes, 0, 1); }

// Loads a vector of each of N neighbouring panels.
template <int N, typename V, typename X>
TRELLAX_INLINE void LoadPanels(V (&loaded)[N], const Problem<X>& p, const char* first) {
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const char* at = first + n * p.panel_bytes;
    PrefetchPanel(at);
    loaded[n] = LoadAs<V>(at);
  }
}

// Each Weights type says how `Add` runs over the inputs [begin, end) of N neighbouring panels.

struct Float32Weights {
  using X = float;
  static constexpr Kind kKind = kInOneSum;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
#pragma GCC unroll 2
    for (int64_t d = begin; d < end; ++d) {
      Floats weights[N];
      LoadPanels<N>(weights, p, panel + d * 64);
      AddRows<R, N>(sums, weights, x + d, p.x_stride);
    }
  }
};

// Pairs of inputs: the lower half of each word is the even one.
struct Bfloat16Weights {
  using X = float;
  static constexpr Kind kKind = kInOneSum;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
    for (int64_t d = begin; d < end; d += 2) {
      Words pairs[N];
      Floats even[N], odd[N];
      LoadPanels<N>(pairs, p, panel + d * 32);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        even[n] = LowerHalves(pairs[n]);
        odd[n] = UpperHalves(pairs[n]);
      }
      AddRows<R, N>(sums, even, x + d, p.x_stride);
      AddRows<R, N>(sums, odd, x + d + 1, p.x_stride);
    }
  }
};

#ifdef __AVX512BF16__
// Products of pairs of bfloat16 numbers by the CPU's own instruction; x holds pairs as well.
template <int R, int N>
TRELLAX_INLINE void AddPairs(Sums<R, N>& sums, const Words (&weights)[N], const uint32_t* x, int64_t x_stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Words x_r = Words{} + x[r * x_stride];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      sums[r][n] = (Floats)_mm512_dpbf16_ps((__m512)sums[r][n], (__m512bh)x_r, (__m512bh)weights[n]);
    }
  }
}

struct Bfloat16Dots {
  using X = uint32_t;
  static constexpr Kind kKind = kInOneSum;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
#pragma GCC unroll 2
    for (int64_t d = begin; d < end; d += 2) {
      Words weights[N];
      LoadPanels<N>(weights, p, panel + d * 32);
      AddPairs<R, N>(sums, weights, x + d / 2, p.x_stride);
    }
  }
};
#endif

struct Int8Weights {
  using X = float;
  static constexpr Kind kKind = kInGroups;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
#pragma GCC unroll 2
    for (int64_t d = begin; d < end; ++d) {
      Floats weights[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 16;
        if (d % 4 == 0) PrefetchPanel(at);
        weights[n] = LoadInt8(reinterpret_cast<const int8_t*>(at));
      }
      AddRows<R, N>(sums, weights, x + d, p.x_stride);
    }
  }
};

// A word holds eight inputs of one output: the even ones in its lower half, the odd ones in its upper half, the first in the
// lowest bits of each. A code c stands for c - 8.
struct Int4Weights {
  using X = float;
  static constexpr Kind kKind = kInGroups;

  static constexpr int ShiftOf(int input) { return input % 2 * 16 + input / 2 * 4; }

  static TRELLAX_INLINE Floats Decode(Words codes) {
#ifdef __AVX512F__
    const Floats values = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (Floats)_mm512_permutexvar_ps((__m512i)codes, (__m512)values);  // reads the lowest four bits
#else
    return __builtin_convertvector((Ints)(codes & 15u) - 8, Floats);
#endif
  }

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
    for (int64_t d = begin; d < end; d += 8) {
      Words words[N];
      LoadPanels<N>(words, p, panel + d * 8);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        Floats weights[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) weights[n] = Decode(words[n] >> ShiftOf(i));
        AddRows<R, N>(sums, weights, x + d + i, p.x_stride);
      }
    }
  }
};

#ifdef __AVX512BF16__
// Integers of eight bits are bfloat16 numbers, so these are the same products as those of Int8Weights and Int4Weights.
struct Int8Dots {
  using X = uint32_t;
  static constexpr Kind kKind = kInGroups;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
    for (int64_t d = begin; d < end; d += 2) {
      Words weights[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 16;
        PrefetchPanel(at);
        const Words even = (Words)LoadInt8(reinterpret_cast<const int8_t*>(at));
        const Words odd = (Words)LoadInt8(reinterpret_cast<const int8_t*>(at + 16));
        weights[n] = (even >> 16) | odd;
      }
      AddPairs<R, N>(sums, weights, x + d / 2, p.x_stride);
    }
  }
};

struct Int4Dots {
  using X = uint32_t;
  static constexpr Kind kKind = kInGroups;

  // The table has 32 entries: its index is five bits, of which the highest is of the next code.
  static TRELLAX_INLINE Words Decode(Words codes) {
    alignas(64) static constexpr uint16_t kNumbers[32] = {
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
    return (Words)_mm512_permutexvar_epi16((__m512i)codes, _mm512_load_si512(kNumbers));
  }

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
    for (int64_t d = begin; d < end; d += 8) {
      Words words[N];
      LoadPanels<N>(words, p, panel + d * 8);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        Words weights[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) weights[n] = Decode(words[n] >> (4 * i));
        AddPairs<R, N>(sums, weights, x + d / 2 + i, p.x_stride);
      }
    }
  }
};
#else
struct Bfloat16Dots;
struct Int8Dots;
struct Int4Dots;
#endif

// Sums each group of quantized weights as they are, and then the groups, scaled.
template <typename Weights, int R, int N>
TRELLAX_INLINE void AddGroups(Sums<R, N>& sums, const Problem<typename Weights::X>& p, const char* panel,
                              const typename Weights::X* x, int64_t first_panel) {
  const int64_t num_groups = p.num_groups();
  for (int64_t g = 0; g < num_groups; ++g) {
    Sums<R, N> group;
    Clear<R, N>(group);
    Weights::template Add<R, N>(group, p, panel, x, g * p.group_size, (g + 1) * p.group_size);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Floats scale = Load(p.scales + ((first_panel + n) * num_groups + g) * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sums[r][n] = MultiplyAdd(group[r][n], scale, sums[r][n]);
    }
  }
}

// Both sides are integers: a word holds four inputs of one output, as numbers without sign that 128 was added to.
struct Int8Dynamic {
  using X = uint32_t;
  static constexpr Kind kKind = kInIntegers;
};

// Sums each group in integers, without any rounding, and then the groups, scaled by both sides.
template <int R, int N>
TRELLAX_INLINE void AddIntegers(Sums<R, N>& sums, const Problem<uint32_t>& p, const char* panel, const uint32_t* x, int64_t row,
                                int64_t first_panel) {
  const int64_t num_groups = p.num_groups(), words = p.group_size / 4;
  for (int64_t g = 0; g < num_groups; ++g) {
    Ints group[R][N];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) group[r][n] = Ints{} + p.x_offsets[(row + r) * num_groups + g];
    }
#pragma GCC unroll 2
    for (int64_t d = g * words; d < (g + 1) * words; ++d) {
      Words weights[N];
      LoadPanels<N>(weights, p, panel + d * 64);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Words x_r = Words{} + x[r * p.x_stride + d];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) group[r][n] = AddProductsOfBytes(group[r][n], weights[n], x_r);
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Floats scale = Load(p.scales + ((first_panel + n) * num_groups + g) * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Floats scaled = ToFloats(group[r][n]) * p.x_scales[(row + r) * num_groups + g];
        sums[r][n] = MultiplyAdd(scaled, scale, sums[r][n]);
      }
    }
  }
}

template <typename X>
TRELLAX_INLINE void StoreLanes(const Problem<X>& p, int64_t row, int64_t panel, Floats sums) {
  const int64_t place = row * p.F + panel * kLanes, left = p.F - panel * kLanes;
  if (p.out_is_bfloat16) {
    StoreSome(static_cast<uint16_t*>(p.out) + place, sums, left);
  } else {
    StoreSome(static_cast<float*>(p.out) + place, sums, left);
  }
}

template <typename Weights, int R, int N>
void Tile(const Problem<typename Weights::X>& p, int64_t row, int64_t panel) {
  const char* values = p.values + panel * p.panel_bytes;
  const auto* x = p.x + row * p.x_stride;
  Sums<R, N> sums;
  Clear<R, N>(sums);
  if constexpr (Weights::kKind == kInIntegers) {
    AddIntegers<R, N>(sums, p, values, x, row, panel);
  } else if constexpr (Weights::kKind == kInGroups) {
    AddGroups<Weights, R, N>(sums, p, values, x, panel);
  } else {
    Weights::template Add<R, N>(sums, p, values, x, 0, p.D);
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) StoreLanes(p, row + r, panel + n, sums[r][n]);
  }
}

}  // namespace
}  // namespace trellax

#endif  // TRELLAX_KERNELS_MATMUL_TILES_H_
