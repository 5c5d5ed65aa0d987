// Products of few rows with a large matrix that was prepared in panels of sixteen outputs.
//
//   trellax_matmul(x [M, D], values, scales, layer [], out [M, F])    see `panels.py` for what values and scales hold
//
// Axes: M rows, D inputs, F outputs, P panels (16 outputs each), R rows of a tile, N panels of a tile.
//
// Each output is one chain of multiply-adds over D (over a group of D, and then over groups), in an order that depends on
// D and the format only. So a row's result is the same, bit for bit, whatever rows are beside it and on any number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "parallel.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace trellax {
namespace {

#ifdef __AVX512F__
constexpr int kRows = 12;  // 24 sums, 2 vectors of weights and a broadcast in 32 registers
constexpr int kPanels = 2;
#else
constexpr int kRows = 6;
constexpr int kPanels = 1;
#endif

constexpr int64_t kBytesAnItem = 64 << 10;  // of weights: enough to be worth taking, and little to wait for
constexpr int64_t kPrefetchBytes = 2048;    // ahead in each panel: pages of 4 KiB stop the hardware's own prefetching

constexpr double kBytesANanosecond = 25, kProductsANanosecond = 50;  // roughly, of one thread

enum Format : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kInt4 = 3 };

// What one thread needs to compute any tile. X is what the inner loop reads: float, or uint32_t for pairs of bfloat16.
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
};

template <int R, int N>
using Sums = Floats[R][N];

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

// Each Weights type says how `Add` runs over the inputs [begin, end) of N neighbouring panels.

struct Float32Weights {
  using X = float;
  static constexpr bool kGrouped = false;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
#pragma GCC unroll 2
    for (int64_t d = begin; d < end; ++d) {
      Floats weights[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 64;
        PrefetchPanel(at);
        weights[n] = LoadAs<Floats>(at);
      }
      AddRows<R, N>(sums, weights, x + d, p.x_stride);
    }
  }
};

// Pairs of inputs: the lower half of each word is the even one.
struct Bfloat16Weights {
  using X = float;
  static constexpr bool kGrouped = false;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
    for (int64_t d = begin; d < end; d += 2) {
      Floats even[N], odd[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 32;
        PrefetchPanel(at);
        const Words pairs = LoadAs<Words>(at);
        even[n] = LowerHalves(pairs);
        odd[n] = UpperHalves(pairs);
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
  static constexpr bool kGrouped = false;

  template <int R, int N>
  static TRELLAX_INLINE void Add(Sums<R, N>& sums, const Problem<X>& p, const char* panel, const X* x, int64_t begin,
                                 int64_t end) {
#pragma GCC unroll 2
    for (int64_t d = begin; d < end; d += 2) {
      Words weights[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 32;
        PrefetchPanel(at);
        weights[n] = LoadAs<Words>(at);
      }
      AddPairs<R, N>(sums, weights, x + d / 2, p.x_stride);
    }
  }
};
#endif

struct Int8Weights {
  using X = float;
  static constexpr bool kGrouped = true;

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
  static constexpr bool kGrouped = true;

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
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 8;
        PrefetchPanel(at);
        words[n] = LoadAs<Words>(at);
      }
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
  static constexpr bool kGrouped = true;

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
  static constexpr bool kGrouped = true;

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
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const char* at = panel + n * p.panel_bytes + d * 8;
        PrefetchPanel(at);
        words[n] = LoadAs<Words>(at);
      }
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
  const int64_t num_groups = p.D / p.group_size;
  for (int64_t g = 0; g < num_groups; ++g) {
    Sums<R, N> group = {};
    Weights::template Add<R, N>(group, p, panel, x, g * p.group_size, (g + 1) * p.group_size);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Floats scale = Load(p.scales + ((first_panel + n) * num_groups + g) * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sums[r][n] = MultiplyAdd(group[r][n], scale, sums[r][n]);
    }
  }
}

template <typename X>
void StoreLanes(const Problem<X>& p, int64_t row, int64_t panel, Floats sums) {
  const int64_t column = panel * kLanes;
  const int64_t count = std::min<int64_t>(kLanes, p.F - column);
  float lanes[kLanes];
  Store(lanes, sums);
  if (p.out_is_bfloat16) {
    uint16_t halves[kLanes];
    for (int i = 0; i < kLanes; ++i) halves[i] = ToBfloat16(lanes[i]);
    std::memcpy(static_cast<uint16_t*>(p.out) + row * p.F + column, halves, count * sizeof(uint16_t));
  } else {
    std::memcpy(static_cast<float*>(p.out) + row * p.F + column, lanes, count * sizeof(float));
  }
}

template <typename Weights, int R, int N>
void Tile(const Problem<typename Weights::X>& p, int64_t row, int64_t panel) {
  const char* values = p.values + panel * p.panel_bytes;
  const auto* x = p.x + row * p.x_stride;
  Sums<R, N> sums = {};
  if constexpr (Weights::kGrouped) {
    AddGroups<Weights, R, N>(sums, p, values, x, panel);
  } else {
    Weights::template Add<R, N>(sums, p, values, x, 0, p.D);
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) StoreLanes(p, row + r, panel + n, sums[r][n]);
  }
}

template <typename Weights, int N, int... R>
void TileOf(int64_t rows, const Problem<typename Weights::X>& p, int64_t row, int64_t panel,
            std::integer_sequence<int, R...>) {
  using Fn = void (*)(const Problem<typename Weights::X>&, int64_t, int64_t);
  static constexpr Fn kTiles[] = {Tile<Weights, R + 1, N>...};
  kTiles[rows - 1](p, row, panel);
}

// All tiles of some rows and some panels; the rows of a panel follow one another, so that its weights stay in a cache.
template <typename Weights>
void Block(const Problem<typename Weights::X>& p, int64_t row_begin, int64_t row_end, int64_t panel_begin,
           int64_t panel_end) {
  const int64_t num_tiles = (row_end - row_begin + kRows - 1) / kRows;
  constexpr auto kAnyRows = std::make_integer_sequence<int, kRows>{};
  for (int64_t panel = panel_begin; panel < panel_end; panel += kPanels) {
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int64_t begin = row_begin + (row_end - row_begin) * tile / num_tiles;
      const int64_t rows = row_begin + (row_end - row_begin) * (tile + 1) / num_tiles - begin;
      if (panel_end - panel >= kPanels) {
        TileOf<Weights, kPanels>(rows, p, begin, panel, kAnyRows);
      } else {
        TileOf<Weights, 1>(rows, p, begin, panel, kAnyRows);
      }
    }
  }
}

int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename Weights>
void Multiply(ffi::ThreadPool& pool, const Problem<typename Weights::X>& p) {
  const int64_t num_panels = CeilOf(p.F, kLanes), wanted = 4 * std::max<int64_t>(pool.num_threads(), 1);
  int64_t panels = CeilOf(kBytesAnItem, p.panel_bytes);
  panels = std::max<int64_t>(1, std::min(panels, num_panels / wanted));
  panels = panels > 1 || num_panels >= wanted * kPanels ? CeilOf(panels, kPanels) * kPanels : 1;
  const int64_t panel_items = CeilOf(num_panels, panels);
  const int64_t row_items = std::min(CeilOf(p.M, kRows), CeilOf(wanted, panel_items));
  const int64_t rows = CeilOf(CeilOf(p.M, kRows), row_items) * kRows;
  const double bytes = static_cast<double>(num_panels) * p.panel_bytes, products = static_cast<double>(p.M) * p.D * p.F;
  const double nanoseconds = bytes / kBytesANanosecond + products / kProductsANanosecond;
  ParallelFor(pool, panel_items * row_items, nanoseconds, [&](int64_t item) {
    const int64_t panel = item / row_items * panels, row = item % row_items * rows;
    Block<Weights>(p, std::min(row, p.M), std::min(row + rows, p.M), panel, std::min(panel + panels, num_panels));
  });
}

// A copy of x for inner loops: [M, stride] numbers, with zeros where a row is padded.
struct AlignedDelete {
  void operator()(void* at) const { ::operator delete[](at, std::align_val_t(64)); }
};
using Buffer = std::unique_ptr<char[], AlignedDelete>;

Buffer Allocate(int64_t bytes) { return Buffer(new (std::align_val_t(64)) char[bytes]); }

// Rows that are a power of two apart share few places of a cache; sixteen more numbers spread them.
int64_t SpreadStride(int64_t numbers) { return CeilOf(numbers, kLanes) * kLanes + kLanes; }

Buffer CopyAsFloats(const void* x, bool is_bfloat16, int64_t M, int64_t D, int64_t stride) {
  Buffer copy = Allocate(M * stride * sizeof(float));
  for (int64_t row = 0; row < M; ++row) {
    float* to = reinterpret_cast<float*>(copy.get()) + row * stride;
    if (is_bfloat16) {
      const uint16_t* from = static_cast<const uint16_t*>(x) + row * D;
      for (int64_t d = 0; d < D; ++d) to[d] = FromBfloat16(from[d]);
    } else {
      std::memcpy(to, static_cast<const float*>(x) + row * D, D * sizeof(float));
    }
    std::fill(to + D, to + stride, 0.0f);
  }
  return copy;
}

Buffer CopyAsPairs(const void* x, int64_t M, int64_t D, int64_t stride) {
  Buffer copy = Allocate(M * stride * sizeof(uint32_t));
  std::memset(copy.get(), 0, M * stride * sizeof(uint32_t));
  for (int64_t row = 0; row < M; ++row) {
    std::memcpy(copy.get() + row * stride * sizeof(uint32_t), static_cast<const uint16_t*>(x) + row * D,
                D * sizeof(uint16_t));
  }
  return copy;
}

template <typename Weights>
void MultiplyFloats(ffi::ThreadPool& pool, Problem<float> p, const void* x, bool x_is_bfloat16) {
  const bool is_padded = std::is_same_v<Weights, Bfloat16Weights> && p.D % 2;
  if (!x_is_bfloat16 && !is_padded && (p.M == 1 || p.D % 256)) {
    p.x = static_cast<const float*>(x);
    p.x_stride = p.D;
    return Multiply<Weights>(pool, p);
  }
  p.x_stride = SpreadStride(p.D);
  const Buffer copy = CopyAsFloats(x, x_is_bfloat16, p.M, p.D, p.x_stride);
  p.x = reinterpret_cast<const float*>(copy.get());
  Multiply<Weights>(pool, p);
}

#ifdef __AVX512BF16__
template <typename Weights>
void MultiplyPairs(ffi::ThreadPool& pool, const Problem<float>& q, const void* x) {
  Problem<uint32_t> p{nullptr, 0, q.values, q.scales, q.panel_bytes, q.M, q.D, q.F, q.group_size, q.out, q.out_is_bfloat16};
  if (p.D % 2 == 0 && (p.M == 1 || p.D % 512)) {
    p.x = static_cast<const uint32_t*>(x);
    p.x_stride = p.D / 2;
    return Multiply<Weights>(pool, p);
  }
  p.x_stride = SpreadStride(CeilOf(p.D, 2));
  const Buffer copy = CopyAsPairs(x, p.M, p.D, p.x_stride);
  p.x = reinterpret_cast<const uint32_t*>(copy.get());
  Multiply<Weights>(pool, p);
}
#endif

// Products of pairs where x is of bfloat16, the CPU can, and no pair lies in two groups.
template <typename Weights, typename Dots>
void MultiplyAny(ffi::ThreadPool& pool, const Problem<float>& p, const void* x, bool x_is_bfloat16) {
#ifdef __AVX512BF16__
  if (x_is_bfloat16 && p.group_size % 2 == 0) return MultiplyPairs<Dots>(pool, p, x);
#endif
  MultiplyFloats<Weights>(pool, p, x, x_is_bfloat16);
}

ffi::Error Matmul(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer values, ffi::Buffer<ffi::F32> scales,
                  ffi::Buffer<ffi::S32> layer, ffi::Result<ffi::AnyBuffer> out, int64_t format, int64_t group_size) {
  const int64_t M = x.dimensions()[0], D = x.dimensions()[1], F = out->dimensions()[1];
  const int64_t num_layers = values.dimensions()[0], num_panels = CeilOf(F, kLanes);
  const int64_t index = std::clamp<int64_t>(layer.typed_data()[0], 0, num_layers - 1);
  const int64_t layer_bytes = values.size_bytes() / num_layers;
  const bool x_is_bfloat16 = x.element_type() == ffi::BF16;
  Problem<float> p{};
  p.values = static_cast<const char*>(values.untyped_data()) + index * layer_bytes;
  p.scales = scales.typed_data() + index * (scales.element_count() / num_layers);
  p.panel_bytes = layer_bytes / num_panels;
  p.M = M;
  p.D = D;
  p.F = F;
  p.group_size = group_size;
  p.out = out->untyped_data();
  p.out_is_bfloat16 = out->element_type() == ffi::BF16;
  switch (format) {
    case kFloat32:
      MultiplyFloats<Float32Weights>(pool, p, x.untyped_data(), x_is_bfloat16);
      return ffi::Error::Success();
    case kBfloat16:
      MultiplyAny<Bfloat16Weights, Bfloat16Dots>(pool, p, x.untyped_data(), x_is_bfloat16);
      return ffi::Error::Success();
    case kInt8:
      MultiplyAny<Int8Weights, Int8Dots>(pool, p, x.untyped_data(), x_is_bfloat16);
      return ffi::Error::Success();
    case kInt4:
      MultiplyAny<Int4Weights, Int4Dots>(pool, p, x.untyped_data(), x_is_bfloat16);
      return ffi::Error::Success();
  }
  return ffi::Error::InvalidArgument("trellax_matmul: unknown format " + std::to_string(format));
}

}  // namespace
}  // namespace trellax

XLA_FFI_DEFINE_HANDLER_SYMBOL(trellax_matmul, trellax::Matmul,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()            // x
                                  .Arg<ffi::AnyBuffer>()            // values
                                  .Arg<ffi::Buffer<ffi::F32>>()     // scales
                                  .Arg<ffi::Buffer<ffi::S32>>()     // layer
                                  .Ret<ffi::AnyBuffer>()            // out
                                  .Attr<int64_t>("format")
                                  .Attr<int64_t>("group_size"));
