#include "server/engine/cuda/warp_factors.h"

#include "absl/types/span.h"
#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {
namespace {

int64_t DivideUp(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

float Value(const MatrixView& matrix, int64_t i) {
  if (matrix.format == FactorFormat::kFloat32) {
    return static_cast<const float*>(matrix.data)[i];
  }
  const uint16_t bits = static_cast<const uint16_t*>(matrix.data)[i];
  return matrix.format == FactorFormat::kFloat16 ? Float16Weight::Widen(bits)
                                                 : BFloat16Weight::Widen(bits);
}

// The nearest bfloat16; a finite one for a finite value.
uint16_t NearestFinite(float value) {
  const uint16_t rounded = BFloat16Weight::Round(value);
  const bool overflowed =
      (rounded & BFloat16Weight::kMagnitude) >= BFloat16Weight::kExponent;
  return overflowed ? static_cast<uint16_t>(FloatBits(value) >> 16) : rounded;
}

// Part 0 (h), 1 (m) or 2 (l) of a value that is split into bfloat16 numbers.
uint16_t Part(float value, int part) {
  for (; part > 0; --part) {
    value -= BFloat16Weight::Widen(NearestFinite(value));
  }
  return NearestFinite(value);
}

// Which parts of the two factors are multiplied: the smallest products first,
// so that few additions round at the size of the sum.
struct PartPair {
  int up;
  int down;
};
constexpr PartPair kSplit[] = {{1, 0}, {0, 1}, {0, 0}};
constexpr PartPair kPreciseSplit[] = {{2, 0}, {0, 2}, {1, 1},
                                      {1, 0}, {0, 1}, {0, 0}};

// Elements of a factor as 16-bit numbers, over the ranks after splitting.
class SplitMatrix {
 public:
  // `rank`: of the matrix itself. `pairs`: empty if it is 16-bit already.
  SplitMatrix(const MatrixView& matrix, int64_t rank,
              absl::Span<const PartPair> pairs, int PartPair::*side)
      : matrix_(matrix), rank_(rank), pairs_(pairs), side_(side) {}

  // Element `i` of the matrix, which has number k % rank among its ranks.
  uint16_t at(int64_t i, int64_t k) const {
    if (pairs_.empty()) return static_cast<const uint16_t*>(matrix_.data)[i];
    return Part(Value(matrix_, i),
                pairs_[static_cast<size_t>(k / rank_)].*side_);
  }

 private:
  const MatrixView& matrix_;
  const int64_t rank_;
  const absl::Span<const PartPair> pairs_;
  int PartPair::*const side_;
};

// The rank, of the sixteen of one product, of a lane's element `i` of its
// register `reg`: the first eight ranks, or the others.
int RankOf(int lane, int reg, int i) { return 2 * (lane % 4) + 8 * reg + i; }

// All lanes' eight elements of one load, where `element(lane, i)` tells them.
template <class F>
void AppendLanes(const F& element, std::vector<uint16_t>& out) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) out.push_back(element(lane, i));
  }
}

}  // namespace

WarpFactors::WarpFactors(const MatrixView& up_view, const MatrixView& down_view,
                         bool precise) {
  absl::Span<const PartPair> pairs;
  if (up_view.format == down_view.format &&
      up_view.format != FactorFormat::kFloat32) {
    format = up_view.format;
  } else if (precise) {
    pairs = kPreciseSplit;
  } else {
    pairs = kSplit;
  }
  const int64_t ranks = up_view.cols;
  const int64_t used =
      ranks * (pairs.empty() ? 1 : static_cast<int64_t>(pairs.size()));
  rank = static_cast<int>(DivideUp(used, kWarpRanks)) * kWarpRanks;

  const auto ranks_all = static_cast<size_t>(rank);
  up.reserve(static_cast<size_t>(DivideUp(up_view.rows, kWarpRows)) *
             kWarpRows * ranks_all);
  down.reserve(static_cast<size_t>(DivideUp(down_view.cols, kWarpCols)) *
               kWarpCols * ranks_all);
  const SplitMatrix up_parts(up_view, ranks, pairs, &PartPair::up);
  for (int64_t panel = 0; panel < up_view.rows; panel += kWarpRows) {
    for (int64_t k = 0; k < rank; k += kWarpRanks) {
      // Registers: rows g and g + 8 of the first ranks, then of the others.
      AppendLanes(
          [&](int lane, int i) -> uint16_t {
            const int64_t row = panel + lane / 4 + i / 2 % 2 * 8;
            const int64_t at = k + RankOf(lane, i / 4, i % 2);
            if (row >= up_view.rows || at >= used) return 0;
            return up_parts.at(row * ranks + at % ranks, at);
          },
          up);
    }
  }

  const SplitMatrix down_parts(down_view, ranks, pairs, &PartPair::down);
  for (int64_t panel = 0; panel < down_view.cols; panel += kWarpCols) {
    for (int64_t step = 0; step < 2 * rank / kWarpRanks; ++step) {
      // Two registers of each of two products.
      AppendLanes(
          [&](int lane, int i) -> uint16_t {
            const int64_t product = step % 2 * 2 + i / 4;
            const int column = lane / 4;  // of the product
            const int64_t col =
                panel + column / 2 * 8 + product * 2 + column % 2;
            const int64_t at =
                step / 2 * kWarpRanks + RankOf(lane, i / 2 % 2, i % 2);
            if (col >= down_view.cols || at >= used) return 0;
            return down_parts.at(at % ranks * down_view.cols + col, at);
          },
          down);
    }
  }
}

}  // namespace graft
