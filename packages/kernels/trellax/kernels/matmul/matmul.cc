// Products of few rows with a large matrix that was prepared in panels of sixteen outputs.
//
//   trellax_matmul(x [M, D], values, scales, layer [], out [M, F])    see `formats.py` for what values and scales hold
//
// Axes: M rows, D inputs, F outputs, P panels (16 outputs each), R rows of a tile, N panels of a tile, G groups of inputs.
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

#include "functions.h"
#include "parallel.h"
#include "tiles.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace trellax {
namespace {

constexpr int64_t kBytesAnItem = 64 << 10;  // of weights: enough to be worth taking, and little to wait for

constexpr double kBytesANanosecond = 25, kProductsANanosecond = 50, kNanosecondsARounding = 0.2;  // roughly, of one thread

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
  const int64_t num_tiles = (row_end - row_begin + kRowsOf<Weights> - 1) / kRowsOf<Weights>;
  constexpr auto kAnyRows = std::make_integer_sequence<int, kRowsOf<Weights>>{};
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
  const int64_t row_items = std::min(CeilOf(p.M, kRowsOf<Weights>), CeilOf(wanted, panel_items));
  const int64_t rows = CeilOf(CeilOf(p.M, kRowsOf<Weights>), row_items) * kRowsOf<Weights>;
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

template <typename T>
Buffer CopyAsFloats(const T* x, int64_t M, int64_t D, int64_t stride) {
  Buffer copy = Allocate(M * stride * sizeof(float));
  for (int64_t row = 0; row < M; ++row) {
    float* to = reinterpret_cast<float*>(copy.get()) + row * stride;
    for (int64_t d = 0; d < D; d += kLanes) StoreSome(to + d, LoadSome(x + row * D + d, D - d), D - d);
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
  const Buffer copy = x_is_bfloat16 ? CopyAsFloats(static_cast<const uint16_t*>(x), p.M, p.D, p.x_stride)
                                    : CopyAsFloats(static_cast<const float*>(x), p.M, p.D, p.x_stride);
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

// A copy of rows as integers of eight bits, with a scale for each group of inputs: the largest of a group becomes ±127.
struct Rounded {
  int64_t D, group_size, stride;  // bytes a row
  Buffer values, scales, offsets;

  Rounded(int64_t M, int64_t D, int64_t group_size)
      : D(D),
        group_size(group_size),
        stride(SpreadStride(CeilOf(D, 4)) * 4),
        values(Allocate(M * stride)),
        scales(Allocate(M * D / group_size * sizeof(float))),
        offsets(Allocate(M * D / group_size * sizeof(int32_t))) {}

  template <typename T>
  void Round(const T* from, int64_t row) {
    int8_t* to = reinterpret_cast<int8_t*>(values.get()) + row * stride;
    const int64_t num_groups = D / group_size;
    for (int64_t g = 0; g < num_groups; ++g) {
      RoundGroup(from + g * group_size, to + g * group_size, reinterpret_cast<float*>(scales.get()) + row * num_groups + g,
                 reinterpret_cast<int32_t*>(offsets.get()) + row * num_groups + g);
    }
  }

  template <typename T>
  void RoundGroup(const T* from, int8_t* to, float* scale, int32_t* offset) const {
    Words largest{};  // as integers, by which infinity is more than any number, and what is none is more than infinity
    for (int64_t d = 0; d < group_size; d += kLanes) {
      largest = Max(largest, (Words)LoadSome(from + d, group_size - d) & 0x7fffffffu);
    }
    const float max = FloatOf(LargestOf(largest)), factor = max == 0 ? 0 : 127 / max;
    Ints sums{};
    for (int64_t d = 0; d < group_size; d += kLanes) {
      const Ints numbers = RoundToInts(LoadSome(from + d, group_size - d) * factor);
      sums += numbers;
      StoreSome(to + d, ToBytes(numbers), group_size - d);
    }
    *scale = max / 127;
    *offset = -128 * SumOf(sums);
  }
};

template <typename T>
void RoundAll(ffi::ThreadPool& pool, Rounded& rounded, const T* x, int64_t M) {
  const int64_t D = rounded.D, rows = CeilOf(M, 4 * std::max<int64_t>(pool.num_threads(), 1));
  ParallelFor(pool, CeilOf(M, rows), M * D * kNanosecondsARounding, [&](int64_t item) {
    for (int64_t row = item * rows; row < std::min((item + 1) * rows, M); ++row) rounded.Round(x + row * D, row);
  });
}

void MultiplyRounded(ffi::ThreadPool& pool, const Problem<float>& q, const void* x, bool x_is_bfloat16) {
  Rounded rounded(q.M, q.D, q.group_size);
  if (x_is_bfloat16) {
    RoundAll(pool, rounded, static_cast<const uint16_t*>(x), q.M);
  } else {
    RoundAll(pool, rounded, static_cast<const float*>(x), q.M);
  }
  Problem<uint32_t> p{reinterpret_cast<const uint32_t*>(rounded.values.get()), rounded.stride / 4};
  p.values = q.values, p.scales = q.scales, p.panel_bytes = q.panel_bytes;
  p.M = q.M, p.D = q.D, p.F = q.F, p.group_size = q.group_size;
  p.out = q.out, p.out_is_bfloat16 = q.out_is_bfloat16;
  p.x_scales = reinterpret_cast<const float*>(rounded.scales.get());
  p.x_offsets = reinterpret_cast<const int32_t*>(rounded.offsets.get());
  Multiply<Int8Dynamic>(pool, p);
}

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
    case kInt8Dynamic:
      MultiplyRounded(pool, p, x.untyped_data(), x_is_bfloat16);
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
