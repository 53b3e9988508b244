#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_DELTA_TERM_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_DELTA_TERM_H_

#include <cstdint>

// What a pass over the weights is told, as plain data: every path reads it, the
// CUDA kernels too, whose compiler sees no other library's headers.
namespace graft {

enum class WeightDtype : uint8_t { kFloat32, kBFloat16, kFloat16 };

// A part of a parameter that is a matrix [rows, cols].
struct TileRange {
  int64_t row = 0;
  int64_t col = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

enum class FactorFormat : uint8_t {
  kFloat32,
  kFloat16,
  kBFloat16,
  // Two ranks of one element side by side, for dot products of bfloat16 pairs
  // (AVX512-BF16). The rank is even.
  kBFloat16Pairs,
  // The same for the tile registers of AMX. The rank is a multiple of 16.
  kBFloat16Tiles,
};

// P = up * down, packed so that whoever computes it reads both from front to
// end. On a CPU (packed_factors.h) a block of 8 x 32: up [rows / 8][rank][8],
// down [cols / 32][rank][32] (kBFloat16Pairs: [...][rank / 2][8 or 32][2];
// kBFloat16Tiles: up [rows / 8][8][rank], down as for pairs), rows, columns and
// rank padded with zeros. On a CUDA device see
// warp_factors.h.
struct LowRankFactors {
  FactorFormat format = FactorFormat::kFloat32;
  int rank = 0;
  const void* up = nullptr;
  const void* down = nullptr;
};

// One summand of D: coefficient * P, elements in float32.
struct DeltaTerm {
  enum class Kind : uint8_t {
    kLowRank,    // P = first
    kHadamard,   // P = first o second, element by element
    kKronecker,  // P = w1 x w2
    kDense,      // P = dense
  };
  Kind kind = Kind::kLowRank;
  float coefficient = 0;
  LowRankFactors first;
  LowRankFactors second;
  // kKronecker: w1 [rows / w2_rows, cols / w2_cols], w2 [w2_rows, w2_cols],
  // both row-major. In a convolution's matrix [out, in * kh * kw] the columns
  // of one input channel lie side by side, so the product keeps this form.
  const float* w1 = nullptr;
  const float* w2 = nullptr;
  int64_t w2_rows = 0;
  int64_t w2_cols = 0;
  // kDense: row-major [rows, cols], no pairs or tiles.
  const void* dense = nullptr;
  FactorFormat dense_format = FactorFormat::kFloat32;
};

// Where a tile's log lies in the arena: 4-bit codes two to a byte, then the
// places of the exceptions (uint16_t), then their bits; or, where that would
// take more room, all of W0, block by block. (A CUDA device lays it out
// otherwise: warp_log.h.)
struct TileRecord {
  enum class Kind : uint8_t {
    kNone,  // the tile is at the base, or elsewhere is a copy of it
    kLog,
    kRaw,
  };
  uint64_t offset = 0;
  uint32_t num_codes = 0;
  uint16_t num_exceptions = 0;
  Kind kind = Kind::kNone;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_DELTA_TERM_H_
