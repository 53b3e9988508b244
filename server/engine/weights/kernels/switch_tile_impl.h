#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_TILE_IMPL_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_TILE_IMPL_H_

#include <cstdint>
#include <cstring>

#include "server/engine/weights/kernels/delta_blocks.h"
#include "server/engine/weights/kernels/lane_checksum.h"
#include "server/engine/weights/kernels/switch_tile.h"
#include "server/engine/weights/kernels/undo_codec.h"
#include "server/engine/weights/kernels/weight_bits.h"

// The pass over one tile, for the files that compile it once per instruction
// set. `Isa` supplies what is worth writing by hand:
//
//   // What the thread has to set up for a tile, and to leave as it was.
//   struct Session {};
//   // Products of so many blocks, side by side, are made at once by
//   //   static void StageProducts(int rank, const void* up,
//   //                             const void* down, int num_blocks,
//   //                             float* products);
//   // for factors in tiles, `products` [num_blocks][8][32]; 0: never, and
//   there
//   // need be no such function.
//   static constexpr int kStagedBlocks;
//   // A row of 32 floats, in registers or as a pointer, and one of D, c * p:
//   // weights of 16 bits are W0 + c * p in one fused operation, rounded;
//   // those of 32 bits W0 + (c * p).
//   using Row = ...;
//   using DeltaRow = ...;
//   static Row LoadRow(const float* p);
//   static DeltaRow Scaled(float c, Row p);
//   // Calls use(sums) with the block up * down, [8][32], summed in float32:
//   //   Row Row(int i);
//   //   void Store(float c, bool add, float* d);   d = c * sum, or d += it
//   // with one fused operation. `up` is [rank][8] float32 (pairs:
//   // [rank / 2][8][2], tiles: [8][rank] bfloat16), `down` this column panel.
//   template <class Use> static void WithProduct(
//       FactorFormat, int rank, const void* up, const void* down, Use use);
//   // One row of 32: W0 from the merged weights, the codes read from `codes`.
//   template <class Weight> static void RestoreRow(
//       const Bits* m, DeltaRow d, uint32_t valid, const int8_t*& codes,
//       Bits* w0);
//   // One row of 32: the merged weights, `codes` and `exceptions` of its log;
//   // returns how many codes.
//   template <class Weight> static int MergeRow(
//       const Bits* w0, DeltaRow d, uint32_t valid, Bits* m, int8_t* codes,
//       uint32_t& exceptions);
//
// Everything here has internal linkage, in an anonymous namespace, as each file
// that includes it is compiled for another processor.

namespace graft {
namespace {

// A checksum as 32 Fletcher sums, one per column of the blocks (16-bit weights
// go in pairs, so half of them are used). Vectors of the compiler's own, so
// that the sums stay in registers.
struct LaneSums {
  static constexpr int kLanes = 16;
  typedef uint32_t Lanes __attribute__((vector_size(kLanes * 4)));
  Lanes a[2] = {};
  Lanes b[2] = {};

  template <class Bits>
  void AddBlock(const Bits* block) {
    constexpr int kVectors = sizeof(Bits) / sizeof(uint16_t);
    for (int v = 0; v < kVectors; ++v) {
      Lanes sum = a[v], sum_of_sums = b[v];
      for (int row = 0; row < kBlockRows; ++row) {
        Lanes words;
        std::memcpy(&words,
                    reinterpret_cast<const char*>(block + row * kBlockCols) +
                        v * sizeof(words),
                    sizeof(words));
        sum += words;
        sum_of_sums += sum;
      }
      a[v] = sum;
      b[v] = sum_of_sums;
    }
  }

  uint64_t Fold() const {
    uint64_t sum = 0;
    for (int i = 0; i < kBlockCols; ++i) {
      sum += LaneChecksum(static_cast<uint32_t>(i), a[i / kLanes][i % kLanes],
                          b[i / kLanes][i % kLanes]);
    }
    return sum;
  }
};

// ---- The logs ---------------------------------------------------------------

// `count` bytes of two codes each, as two signed bytes each.
inline void UnpackCodes(const uint8_t* __restrict packed, uint32_t count,
                        int8_t* __restrict codes) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint16_t both = packed[i];
    const auto spread = static_cast<uint16_t>((both | (both << 4)) & 0x0f0f);
    std::memcpy(codes + 2 * i, &spread, sizeof(spread));
  }
  for (uint32_t i = 0; i < 2 * count; ++i) {
    codes[i] = static_cast<int8_t>((codes[i] ^ 8) - 8);
  }
}

template <class Bits>
class LogReader {
 public:
  LogReader(const TileLog& log, TileScratch& scratch) : log_(log) {
    // Whatever the log is: a record that memory has changed is found by the
    // checksum, after the rows were read.
    codes_ = scratch.old_codes.data();
    if (log.kind != TileRecord::Kind::kLog) return;
    UnpackCodes(log.codes, (log.num_codes + 1) / 2, scratch.old_codes.data());
    NextPosition();
  }

  bool raw() const { return log_.kind == TileRecord::Kind::kRaw; }
  const int8_t* codes() const { return codes_; }
  void set_codes(const int8_t* next) { codes_ = next; }

  // Puts in place what the codes could not say of block number `block`.
  void PatchBlock(uint32_t block, Bits* w0) {
    while (next_position_ < (block + 1) * kBlockSize) {
      std::memcpy(&w0[next_position_ % kBlockSize],
                  log_.values + next_ * sizeof(Bits), sizeof(Bits));
      ++next_;
      NextPosition();
    }
  }

  void ReadRawBlock(uint32_t block, Bits* w0) const {
    std::memcpy(w0, log_.raw + size_t{block} * kBlockSize * sizeof(Bits),
                kBlockSize * sizeof(Bits));
  }

 private:
  void NextPosition() {
    next_position_ = UINT32_MAX;
    if (next_ >= log_.num_exceptions) return;
    uint16_t position;
    std::memcpy(&position, log_.positions + next_ * sizeof(position),
                sizeof(position));
    next_position_ = position;
  }

  const TileLog log_;
  const int8_t* codes_ = nullptr;
  uint32_t next_ = 0;
  uint32_t next_position_ = UINT32_MAX;
};

// ---- The tile ---------------------------------------------------------------

// The part of a block that lies in the parameter. Nearly all blocks are whole,
// and the code for them wants constants.
struct WholeBlock {
  static constexpr bool kWhole = true;
  static constexpr int rows = kBlockRows;
  static constexpr int cols = kBlockCols;
  static constexpr uint32_t valid() { return UINT32_MAX; }
};

struct EdgeBlock {
  static constexpr bool kWhole = false;
  int rows;
  int cols;
  uint32_t valid() const {
    return cols == kBlockCols ? UINT32_MAX : (1u << cols) - 1;
  }
};

template <class Bits, class Extent>
void CopyBlock(const Bits* from, int64_t from_stride, Bits* to,
               int64_t to_stride, const Extent& extent) {
  for (int i = 0; i < extent.rows; ++i) {
    if constexpr (Extent::kWhole) {
      std::memcpy(to + i * to_stride, from + i * from_stride,
                  kBlockCols * sizeof(Bits));
    } else {
      std::memcpy(to + i * to_stride, from + i * from_stride,
                  extent.cols * sizeof(Bits));
    }
  }
}

template <class Isa, class Weight>
class TileSwitch {
  using Bits = typename Weight::Bits;

 public:
  TileSwitch(const TileJob& job, TileScratch& scratch)
      : job_(job),
        scratch_(scratch),
        old_delta_(job.old_terms, job.range.row + job.range.rows, job.cols,
                   scratch, 0),
        new_delta_(job.new_terms, job.range.row + job.range.rows, job.cols,
                   scratch, NumProducts(job.old_terms)),
        reader_(job.old_log, scratch),
        subtract_(job.pristine == nullptr && !job.old_terms.empty()) {}

  uint64_t Run() {
    scratch_.num_codes = 0;
    scratch_.num_exceptions = 0;
    const TileRange& range = job_.range;
    for (int64_t i = 0; i < range.rows; i += kBlockRows) {
      if (subtract_) old_delta_.StartRowPanel(range.row + i);
      if (!new_delta_.empty()) new_delta_.StartRowPanel(range.row + i);
      for (int64_t j = 0; j < range.cols; j += kBlockCols) {
        const EdgeBlock edge{static_cast<int>(Min(range.rows - i, kBlockRows)),
                             static_cast<int>(Min(range.cols - j, kBlockCols))};
        if (edge.rows == kBlockRows && edge.cols == kBlockCols) {
          RunBlock(range.row + i, range.col + j, WholeBlock());
        } else {
          RunBlock(range.row + i, range.col + j, edge);
        }
      }
    }
    return sums_.Fold();
  }

 private:
  static int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

  template <class Extent>
  void RunBlock(int64_t row, int64_t col, const Extent& extent) {
    const int64_t at = row * job_.cols + col;
    Bits* const live = static_cast<Bits*>(job_.live) + at;
    alignas(64) Bits w0[kBlockSize];
    if constexpr (Extent::kWhole) {
      // Of the rows below: eight short streams are too many for the processor
      // to foresee.
      for (int i = kBlockRows; i < 2 * kBlockRows; ++i) {
        constexpr int kLineElements = 64 / sizeof(Bits);
        for (int j = 0; j < kBlockCols; j += kLineElements) {
          __builtin_prefetch(live + i * job_.cols + j);
        }
      }
    } else {
      std::memset(w0, 0, sizeof(w0));
    }

    GetPristine(live, at, col, extent, w0);
    sums_.AddBlock(w0);
    if (job_.extract_blocks != nullptr) {
      std::memcpy(
          static_cast<Bits*>(job_.extract_blocks) + size_t{block_} * kBlockSize,
          w0, sizeof(w0));
    } else if (job_.extract != nullptr) {
      CopyBlock(w0, kBlockCols, static_cast<Bits*>(job_.extract) + at,
                job_.cols, extent);
    } else if (new_delta_.empty()) {
      // Else it was read from there: a checksum alone writes nothing.
      if (subtract_ || job_.pristine != nullptr) {
        CopyBlock(w0, kBlockCols, live, job_.cols, extent);
      }
    } else {
      Merge(w0, col, extent, live);
    }
    ++block_;
  }

  template <class Extent>
  void GetPristine(const Bits* live, int64_t at, int64_t col,
                   const Extent& extent, Bits* w0) {
    if (job_.pristine != nullptr) {
      CopyBlock(static_cast<const Bits*>(job_.pristine) + at, job_.cols, w0,
                kBlockCols, extent);
    } else if (!subtract_) {
      CopyBlock(live, job_.cols, w0, kBlockCols, extent);
    } else if (reader_.raw()) {
      reader_.ReadRawBlock(block_, w0);
    } else {
      Restore(live, col, extent, w0);
    }
  }

  template <class Extent>
  void Restore(const Bits* live, int64_t col, const Extent& extent, Bits* w0) {
    if constexpr (Extent::kWhole) {
      old_delta_.Visit(
          col, [&](const auto& d) __attribute__((always_inline)) {
            RestoreRows(live, job_.cols, d, extent, w0);
          });
    } else {
      alignas(64) float p[kBlockSize];
      const float c = old_delta_.Fill(col, p);
      alignas(64) Bits staged[kBlockSize] = {};
      CopyBlock(live, job_.cols, staged, kBlockCols, extent);
      RestoreRows(staged, kBlockCols, StoredDelta<Isa>{c, p}, extent, w0);
    }
    reader_.PatchBlock(block_, w0);
    if (extent.cols < kBlockCols) ClearPadding(extent, w0);
  }

  template <class Delta, class Extent>
  GRAFT_INLINE void RestoreRows(const Bits* merged, int64_t stride,
                                const Delta& d, const Extent& extent,
                                Bits* w0) {
    const int8_t* codes = reader_.codes();
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
      if (i >= extent.rows) break;
      Isa::template RestoreRow<Weight>(merged + i * stride, d.Row(i),
                                       extent.valid(), codes,
                                       w0 + i * kBlockCols);
    }
    reader_.set_codes(codes);
  }

  // What lies beyond the last column must be zero for the checksum.
  template <class Extent>
  static void ClearPadding(const Extent& extent, Bits* w0) {
    for (int i = 0; i < extent.rows; ++i) {
      for (int j = extent.cols; j < kBlockCols; ++j) w0[i * kBlockCols + j] = 0;
    }
  }

  template <class Extent>
  void Merge(const Bits* w0, int64_t col, const Extent& extent, Bits* live) {
    if constexpr (Extent::kWhole) {
      new_delta_.Visit(
          col, [&](const auto& d) __attribute__((always_inline)) {
            MergeRows(w0, d, extent, live, job_.cols);
          });
    } else {
      alignas(64) float p[kBlockSize];
      const float c = new_delta_.Fill(col, p);
      alignas(64) Bits staged[kBlockSize];
      MergeRows(w0, StoredDelta<Isa>{c, p}, extent, staged, kBlockCols);
      CopyBlock(static_cast<const Bits*>(staged), kBlockCols, live, job_.cols,
                extent);
    }
  }

  template <class Delta, class Extent>
  GRAFT_INLINE void MergeRows(const Bits* w0, const Delta& d,
                              const Extent& extent, Bits* to, int64_t stride) {
    int8_t* const first_code = scratch_.codes.data() + scratch_.num_codes;
    int8_t* next_code = first_code;
    alignas(8) uint32_t exceptions[kBlockRows] = {};
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
      if (i >= extent.rows) break;
      next_code += Isa::template MergeRow<Weight>(
          w0 + i * kBlockCols, d.Row(i), extent.valid(), to + i * stride,
          next_code, exceptions[i]);
    }
    if (!job_.keep_log) return;
    scratch_.num_codes += static_cast<uint32_t>(next_code - first_code);
    AddExceptions(exceptions, w0);
  }

  // Every other block or so has an exception, in no order that a processor
  // could foresee: the first of two rows is written whether or not it is one,
  // and a branch is left to the rest.
  void AddExceptions(const uint32_t* rows, const Bits* w0) {
    uint32_t count = scratch_.num_exceptions;
    for (int i = 0; i < kBlockRows; i += 2) {
      uint64_t left = rows[i] | (uint64_t{rows[i + 1]} << kBlockCols);
      do {
        const uint32_t at = static_cast<uint32_t>(
            i * kBlockCols + __builtin_ctzll(left | (uint64_t{1} << 63)));
        scratch_.positions[count] =
            static_cast<uint16_t>(block_ * kBlockSize + at);
        scratch_.values[count] = w0[at];
        count += left != 0;
        left &= left - 1;
      } while (__builtin_expect(left != 0, 0));
    }
    scratch_.num_exceptions = count;
  }

  const TileJob& job_;
  TileScratch& scratch_;
  DeltaBlocks<Isa> old_delta_;
  DeltaBlocks<Isa> new_delta_;
  LogReader<Bits> reader_;
  const bool subtract_;
  LaneSums sums_;
  uint32_t block_ = 0;
};

template <class Isa, class Weight>
uint64_t SwitchTile(const TileJob& job, TileScratch& scratch) {
  [[maybe_unused]] const typename Isa::Session session;
  return TileSwitch<Isa, Weight>(job, scratch).Run();
}

template <class Isa>
void FillDelta(DeltaTerms terms, const TileRange& range, int64_t cols,
               float* delta, int64_t stride, TileScratch& scratch) {
  [[maybe_unused]] const typename Isa::Session session;
  DeltaBlocks<Isa> blocks(terms, range.row + range.rows, cols, scratch, 0);
  alignas(64) float d[kBlockSize] = {};
  for (int64_t i = 0; i < range.rows; i += kBlockRows) {
    blocks.StartRowPanel(range.row + i);
    for (int64_t j = 0; j < range.cols; j += kBlockCols) {
      const float c = blocks.Fill(range.col + j, d);
      for (float& element : d) element *= c;
      const int64_t rows =
          range.rows - i < kBlockRows ? range.rows - i : kBlockRows;
      const int64_t width =
          range.cols - j < kBlockCols ? range.cols - j : kBlockCols;
      for (int64_t k = 0; k < rows; ++k) {
        std::memcpy(delta + (i + k) * stride + j, d + k * kBlockCols,
                    width * sizeof(float));
      }
    }
  }
}

template <class Isa>
constexpr SwitchKernels MakeSwitchKernels(const char* name,
                                          FactorFormat bfloat16_format) {
  return {name,
          bfloat16_format,
          {&SwitchTile<Isa, Float32Weight>, &SwitchTile<Isa, BFloat16Weight>,
           &SwitchTile<Isa, Float16Weight>},
          &FillDelta<Isa>};
}

}  // namespace
}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_TILE_IMPL_H_
