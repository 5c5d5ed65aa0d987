// The online softmax of a tile's queries: scores become weights, and weighted values are kept up to scale.

#ifndef TRELLAX_KERNELS_PAGED_ATTENTION_SOFTMAX_H_
#define TRELLAX_KERNELS_PAGED_ATTENTION_SOFTMAX_H_

#include <memory>
#include <new>

#include "numbers.h"

namespace trellax {
namespace {  // nothing is shared with other libraries of the process

constexpr float kLowest = -1e30f;  // less than any score

struct Free {
  void operator()(float* at) const { ::operator delete[](at, std::align_val_t(64)); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer Allocate(int64_t n) { return Buffer(new (std::align_val_t(64)) float[n]); }

// Softmax under way, of a number of queries.
struct Softmax {
  float max[kTileRows];
  Buffer sums;    // of exponentials: [rows, 16], to be added up
  Buffer values;  // weighted: [rows, padded_H]

  Softmax(int64_t rows, int64_t padded_H) : sums(Allocate(rows * kLanes)), values(Allocate(rows * padded_H)) {}

  void Clear(int64_t rows, int64_t padded_H) {
    std::fill(max, max + rows, kLowest);
    std::fill(sums.get(), sums.get() + rows * kLanes, 0.0f);
    std::fill(values.get(), values.get() + rows * padded_H, 0.0f);
  }

  // To a new maximum of the i-th query.
  void Shrink(int64_t i, float new_max, int64_t padded_H) {
    const float factor = Exp(max[i] - new_max);
    max[i] = new_max;
    Store(&sums[i * kLanes], Load(&sums[i * kLanes]) * factor);
    for (float *at = &values[i * padded_H], *end = at + padded_H; at < end; at += kLanes) Store(at, Load(at) * factor);
  }
};

// What int8 keys and values of a block are multiplied by: a number each, or null for other types.
struct Scales {
  const float *keys = nullptr, *values = nullptr;
};

// Scales, caps and biases one query's scores of sixteen keys of a block, of which the t-th is the first, and hides those outside of
// `visible`. Positions are counted from the block's first key.
TRELLAX_INLINE Floats FinishScores(const Problem& p, Floats scores, int64_t t, Range visible, float slope, float position) {
  const Floats lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Floats key = lanes + static_cast<float>(t);
  if (p.soft_cap > 0) scores = p.soft_cap * Tanh(scores / p.soft_cap);
  if (p.slopes) scores -= slope * (position - key);
  if (visible.begin <= t && visible.end >= t + kLanes) return scores;
  const auto is_visible = (key >= static_cast<float>(visible.begin)) & (key < static_cast<float>(visible.end));
  return is_visible ? scores : Broadcast(kLowest);
}

// Turns the scores of a tile's i-th query of a block's keys into weights of their values.
template <typename Numbers>
void AddToSoftmax(const Problem& p, const Query& query, int64_t i, const Block& block, const Scales& scales, float* at,
                         Softmax& softmax) {
  const Range visible{std::max<int64_t>(query.keys.begin - block.first, 0), std::min(query.keys.end - block.first, kKeys)};
  if (visible.is_empty()) {
    std::fill(at, at + kKeys, 0.0f);
    return;
  }
  Floats scores[kScoreVectors], largest = Broadcast(softmax.max[i]);
  const float position = query.position - static_cast<float>(block.first);
  for (int64_t v = 0; v < kScoreVectors; ++v) {
    Floats score = Load(at + v * kLanes) * p.scale;
    if (scales.keys) score *= Load(scales.keys + v * kLanes);
    scores[v] = FinishScores(p, score, v * kLanes, visible, query.slope, position);
    largest = Max(largest, scores[v]);
  }
  const float max = LargestOf(largest);
  if (max > softmax.max[i]) softmax.Shrink(i, max, p.padded_H());
  Floats weights[kScoreVectors], sum = Load(&softmax.sums[i * kLanes]);
  for (int64_t v = 0; v < kScoreVectors; ++v) {
    const Floats exponential = Exp(scores[v] - max);
    weights[v] = scores[v] > kLowest ? exponential : Zero();
    sum += weights[v];
    if (scales.values) weights[v] *= Load(scales.values + v * kLanes);
  }
  Store(&softmax.sums[i * kLanes], sum);
  Numbers::StoreWeights(at, weights);
}

// Joins the softmax of a later split to that of all before it.
void Join(Softmax& later, int64_t rows, int64_t padded_H, Softmax& all) {
  for (int64_t row = 0; row < rows; ++row) {
    const float max = std::max(all.max[row], later.max[row]);
    all.Shrink(row, max, padded_H);
    later.Shrink(row, max, padded_H);
    const auto add = [](float* to, const float* from) { Store(to, Load(to) + Load(from)); };
    add(&all.sums[row * kLanes], &later.sums[row * kLanes]);
    for (int64_t h = 0; h < padded_H; h += kLanes) add(&all.values[row * padded_H + h], &later.values[row * padded_H + h]);
  }
}

template <typename Numbers>
void StoreResult(const Problem& p, const Query* queries, int64_t rows, Softmax& softmax) {
  for (int64_t i = 0; i < rows; ++i) {
    const float sum = SumOf(Load(&softmax.sums[i * kLanes])), factor = sum > 0 ? 1.0f / sum : 0.0f;
    float* values = &softmax.values[i * p.padded_H()];
    Numbers::Sort(values, p.padded_H());
    for (int64_t h = 0; h < p.H; h += kLanes) {
      const Floats result = Load(values + h) * factor;
      if (p.q_type == ffi::F32) {
        StoreHead<ffi::F32>(result, p.out, queries[i].place + h, p.H - h);
      } else {
        StoreHead<ffi::BF16>(result, p.out, queries[i].place + h, p.H - h);
      }
    }
  }
}

}  // namespace
}  // namespace trellax

#endif  // TRELLAX_KERNELS_PAGED_ATTENTION_SOFTMAX_H_
