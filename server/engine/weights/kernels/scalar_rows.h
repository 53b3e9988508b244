#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SCALAR_ROWS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SCALAR_ROWS_H_

#include <cstdint>

#include "server/engine/weights/kernels/delta_blocks.h"
#include "server/engine/weights/kernels/switch_tile.h"
#include "server/engine/weights/kernels/undo_codec.h"
#include "server/engine/weights/kernels/weight_bits.h"

// Rows of 32 weights in plain C++, in loops that a compiler can vectorise. The
// definition of what the hand-written ones must give.
namespace graft {
namespace {

// A block's product in memory.
struct StoredSums {
  alignas(64) float values[kBlockSize] = {};

  const float* Row(int i) const { return values + i * kBlockCols; }
  void Store(float c, bool add, float* d) const {
    Accumulate(values, c, add, d);
  }
};

// A row of D, c * p.
struct ScaledRow {
  float c;
  const float* p;
};

// Adds D, or subtracts it, as `sign` is 1 or -1. `d`: what IsCandidate wants.
template <class Weight>
void AddDelta(float sign, const ScaledRow& delta, float* values, float* d) {
  if constexpr (sizeof(typename Weight::Bits) == sizeof(float)) {
    for (int i = 0; i < kBlockCols; ++i) d[i] = delta.c * delta.p[i];
    for (int i = 0; i < kBlockCols; ++i) values[i] += sign * d[i];
  } else {
    const float c = sign * delta.c;
    for (int i = 0; i < kBlockCols; ++i) {
      values[i] = __builtin_fmaf(c, delta.p[i], values[i]);
    }
  }
}

// `Convert` has Widen and Round over a row: the scalar ones, or hardware's.
template <class Weight>
struct ScalarConvert {
  static void Widen(const typename Weight::Bits* bits, float* values) {
    for (int i = 0; i < kBlockCols; ++i) values[i] = Weight::Widen(bits[i]);
  }
  static void Round(const float* values, typename Weight::Bits* bits) {
    for (int i = 0; i < kBlockCols; ++i) bits[i] = Weight::Round(values[i]);
  }
};

template <class Weight>
uint32_t CandidateMask(const typename Weight::Bits* m,
                       const typename Weight::Bits* r, const float* d) {
  bool candidate[kBlockCols];
  for (int i = 0; i < kBlockCols; ++i) {
    candidate[i] = IsCandidate<Weight>(m[i], r[i], d[i]);
  }
  uint32_t mask = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    mask |= static_cast<uint32_t>(candidate[i]) << i;
  }
  return mask;
}

template <class Weight, class Convert>
void ScalarRestoreRow(const typename Weight::Bits* m, const ScaledRow& delta,
                      uint32_t valid, const int8_t*& codes,
                      typename Weight::Bits* w0) {
  using Bits = typename Weight::Bits;
  float values[kBlockCols], d[kBlockCols] = {};
  Convert::Widen(m, values);
  AddDelta<Weight>(-1, delta, values, d);
  Bits r[kBlockCols];
  Convert::Round(values, r);
  for (uint32_t left = CandidateMask<Weight>(m, r, d) & valid; left != 0;
       left &= left - 1) {
    r[__builtin_ctz(left)] += static_cast<Bits>(*codes++);
  }
  for (int i = 0; i < kBlockCols; ++i) w0[i] = r[i];
}

template <class Weight, class Convert>
int ScalarMergeRow(const typename Weight::Bits* w0, const ScaledRow& delta,
                   uint32_t valid, typename Weight::Bits* m, int8_t* codes,
                   uint32_t& exceptions) {
  using Bits = typename Weight::Bits;
  float values[kBlockCols], d[kBlockCols] = {};
  Convert::Widen(w0, values);
  AddDelta<Weight>(1, delta, values, d);
  Bits merged[kBlockCols], r[kBlockCols];
  Convert::Round(values, merged);
  Convert::Widen(merged, values);
  AddDelta<Weight>(-1, delta, values, d);
  Convert::Round(values, r);

  uint32_t differs = 0, fits = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    const Bits difference = static_cast<Bits>(w0[i] - r[i]);
    differs |= static_cast<uint32_t>(difference != 0) << i;
    fits |= static_cast<uint32_t>(static_cast<Bits>(difference + kMaxCode) <=
                                  2 * kMaxCode)
            << i;
  }
  const uint32_t candidates = CandidateMask<Weight>(merged, r, d) & valid;
  exceptions = ((differs & ~candidates) | (candidates & ~fits)) & valid;
  int num_codes = 0;
  for (uint32_t left = candidates; left != 0; left &= left - 1) {
    const int i = __builtin_ctz(left);
    codes[num_codes++] = static_cast<int8_t>(w0[i] - r[i]);
  }
  for (int i = 0; i < kBlockCols; ++i) m[i] = merged[i];
  return num_codes;
}

// The rows' part of an Isa (see switch_tile_impl.h), with `Convert` as above.
template <template <class> class Convert>
struct ScalarRows {
  struct Session {};
  static constexpr int kStagedBlocks = 0;
  using Row = const float*;
  using DeltaRow = ScaledRow;
  static Row LoadRow(const float* p) { return p; }
  static DeltaRow Scaled(float c, Row p) { return {c, p}; }

  template <class Weight>
  static void RestoreRow(const typename Weight::Bits* m, const DeltaRow& d,
                         uint32_t valid, const int8_t*& codes,
                         typename Weight::Bits* w0) {
    ScalarRestoreRow<Weight, Convert<Weight>>(m, d, valid, codes, w0);
  }

  template <class Weight>
  static int MergeRow(const typename Weight::Bits* w0, const DeltaRow& d,
                      uint32_t valid, typename Weight::Bits* m, int8_t* codes,
                      uint32_t& exceptions) {
    return ScalarMergeRow<Weight, Convert<Weight>>(w0, d, valid, m, codes,
                                                   exceptions);
  }
};

}  // namespace
}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SCALAR_ROWS_H_
