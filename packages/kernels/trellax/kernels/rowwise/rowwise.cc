// Operations on each row by itself.
//
//   trellax_rms_norm(x [M, D], scale [D], out [M, D], eps)
//   trellax_silu_product(gate [M, D], up [M, D], out [M, D])
//
// Axes: M rows, D numbers of a row. x and out are of one type, float32 or bfloat16; the scale is of either.
//
// Sums are made in an order that depends on D only, so a row's result does not depend on other rows or on threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "functions.h"
#include "parallel.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace trellax {
namespace {

constexpr int64_t kNumbersAnItem = 4096;
constexpr double kNanosecondsANumber = 0.15;  // roughly, of one thread

int64_t CeilOf(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T, typename Scale>
void NormalizeRow(const T* x, const Scale* scale, T* out, int64_t D, float eps) {
  Floats squares = Zero();
  for (int64_t d = 0; d < D; d += kLanes) {
    const Floats v = LoadSome(x + d, D - d);
    squares = MultiplyAdd(v, v, squares);
  }
  const float factor = 1.0f / std::sqrt(SumOf(squares) / D + eps);
  for (int64_t d = 0; d < D; d += kLanes) {
    StoreSome(out + d, LoadSome(x + d, D - d) * factor * LoadSome(scale + d, D - d), D - d);
  }
}

template <typename T, typename Scale>
void Normalize(ffi::ThreadPool& pool, ffi::AnyBuffer& x, ffi::AnyBuffer& scale, ffi::AnyBuffer& out, float eps) {
  const int64_t M = x.dimensions()[0], D = x.dimensions()[1], rows = CeilOf(kNumbersAnItem, D);
  const T* from = static_cast<const T*>(x.untyped_data());
  T* to = static_cast<T*>(out.untyped_data());
  const Scale* scales = static_cast<const Scale*>(scale.untyped_data());
  ParallelFor(pool, CeilOf(M, rows), M * D * kNanosecondsANumber, [&](int64_t item) {
    for (int64_t row = item * rows; row < std::min(M, (item + 1) * rows); ++row) {
      NormalizeRow(from + row * D, scales, to + row * D, D, eps);
    }
  });
}

// x / (1 + e^-x). Below -88 e^-x would be infinite, and the quotient is as good as zero. What is not a number stays so.
TRELLAX_INLINE Floats Silu(Floats x) {
  x = Max(Broadcast(-88.0f), x);
  return x / (1.0f + Exp(-x));
}

TRELLAX_INLINE Floats RoundedAs(const float*, Floats v) { return v; }
TRELLAX_INLINE Floats RoundedAs(const uint16_t*, Floats v) {
  const Halves halves = ToBfloat16(v);
  return LoadBfloat16(reinterpret_cast<const uint16_t*>(&halves));
}

template <typename T>
void Gate(ffi::ThreadPool& pool, ffi::AnyBuffer& gate, ffi::AnyBuffer& up, ffi::AnyBuffer& out) {
  const int64_t count = gate.element_count();
  const T* gates = static_cast<const T*>(gate.untyped_data());
  const T* ups = static_cast<const T*>(up.untyped_data());
  T* to = static_cast<T*>(out.untyped_data());
  ParallelFor(pool, CeilOf(count, kNumbersAnItem), 3 * count * kNanosecondsANumber, [&](int64_t item) {
    const int64_t end = std::min(count, (item + 1) * kNumbersAnItem);
    for (int64_t i = item * kNumbersAnItem; i < end; i += kLanes) {
      const Floats silu = RoundedAs(gates, Silu(LoadSome(gates + i, end - i)));
      StoreSome(to + i, silu * LoadSome(ups + i, end - i), end - i);
    }
  });
}

ffi::Error RmsNorm(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer scale, ffi::Result<ffi::AnyBuffer> out, float eps) {
  const bool is_float32 = x.element_type() == ffi::F32, scale_is_float32 = scale.element_type() == ffi::F32;
  if (is_float32 && scale_is_float32) Normalize<float, float>(pool, x, scale, *out, eps);
  if (is_float32 && !scale_is_float32) Normalize<float, uint16_t>(pool, x, scale, *out, eps);
  if (!is_float32 && scale_is_float32) Normalize<uint16_t, float>(pool, x, scale, *out, eps);
  if (!is_float32 && !scale_is_float32) Normalize<uint16_t, uint16_t>(pool, x, scale, *out, eps);
  return ffi::Error::Success();
}

ffi::Error SiluProduct(ffi::ThreadPool pool, ffi::AnyBuffer gate, ffi::AnyBuffer up, ffi::Result<ffi::AnyBuffer> out) {
  if (gate.element_type() == ffi::F32) {
    Gate<float>(pool, gate, up, *out);
  } else {
    Gate<uint16_t>(pool, gate, up, *out);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace trellax

XLA_FFI_DEFINE_HANDLER_SYMBOL(trellax_rms_norm, trellax::RmsNorm,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // x
                                  .Arg<ffi::AnyBuffer>()  // scale
                                  .Ret<ffi::AnyBuffer>()  // out
                                  .Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(trellax_silu_product, trellax::SiluProduct,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // gate
                                  .Arg<ffi::AnyBuffer>()  // up
                                  .Ret<ffi::AnyBuffer>());  // out
