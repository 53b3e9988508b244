#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_FACTORS_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_FACTORS_H_

#include <cstdint>
#include <vector>

#include "server/engine/weights/kernels/packed_factors.h"

namespace graft {

// A product of tensor cores is 16 x 16 times 16 x 8. A warp makes four of them
// at a time, for 16 rows and 32 columns.
inline constexpr int kWarpRows = 16;
inline constexpr int kWarpCols = 32;
inline constexpr int kWarpRanks = 16;

// The two factors of a low-rank product as the warps of a CUDA device read
// them: `up` [rows / 16][rank / 16][32 lanes][8] and `down` [cols / 32][rank /
// 16][2][32 lanes][8], each lane's elements side by side in the order of its
// registers (mma.sync.m16n8k16), rows, columns and rank padded with zeros.
// Columns are dealt out such that a lane gets eight neighbours of a row: lane t
// of four has columns 8 t ... 8 t + 7, two of each product.
//
// Tensor cores multiply 16-bit numbers. Factors of one 16-bit type stay as they
// are. Others are split into sums of bfloat16 numbers, x = h + m (+ l), and the
// products of those that matter become further ranks: h h + h m + m h, which
// leaves 2^-16 of |up| |down|, a 32nd of a unit in the last place of a 16-bit
// weight of that size and less; where `precise`, for float32 weights,
// h h + h m + m h + m m + h l + l h, which leaves 2^-23.
struct WarpFactors {
  // `up` [rows, r], `down` [r, cols].
  WarpFactors(const MatrixView& up, const MatrixView& down, bool precise);

  FactorFormat format = FactorFormat::kBFloat16;  // or kFloat16
  int rank = 0;                                   // padded
  std::vector<uint16_t> up;
  std::vector<uint16_t> down;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_FACTORS_H_
