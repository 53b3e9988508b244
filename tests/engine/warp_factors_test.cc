#include "server/engine/cuda/warp_factors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "server/engine/cuda/warp_delta.h"
#include "server/engine/weights/kernels/packed_factors.h"
#include "tests/engine/host_warp.h"

namespace graft {
namespace {

// D of factors that tensor cores do not take as they are.
TEST(WarpFactorsTest, SplittingLosesLittle) {
  constexpr int kRows = 20, kCols = 40, kRank = 7;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> up(kRows * kRank), down(kRank * kCols);
  for (float& value : up) value = normal(random);
  for (float& value : down) value = normal(random);
  up[3] = 0;
  down[5] = std::numeric_limits<float>::denorm_min();
  for (const bool precise : {false, true}) {
    const WarpFactors factors(
        {FactorFormat::kFloat32, up.data(), kRows, kRank},
        {FactorFormat::kFloat32, down.data(), kRank, kCols}, precise);
    EXPECT_EQ(factors.format, FactorFormat::kBFloat16);
    EXPECT_EQ(factors.rank % kWarpRanks, 0);
    AlignedBytes up_bytes(factors.up.size() * 2);
    AlignedBytes down_bytes(factors.down.size() * 2);
    std::memcpy(up_bytes.data(), factors.up.data(), up_bytes.size());
    std::memcpy(down_bytes.data(), factors.down.data(), down_bytes.size());
    DeltaTerm term;
    term.coefficient = 1;
    term.first = {factors.format, factors.rank, up_bytes.data(),
                  down_bytes.data()};
    double worst = 0;
    for (int row = 0; row < kRows; row += kStepRows) {
      for (int col = 0; col < kCols; col += kStepCols) {
        const WarpStep step{row, col, kRows, kCols};
        HostWarp::Lanes<LaneDelta> d;
        TermSum<HostWarp> sum(&term, 1);
        sum.Prefetch(step);
        sum.Compute(step, d);
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int i = 0; i < kLaneElements; ++i) {
            const int r = step.RowOf(lane, i), c = step.ColOf(lane, i);
            if (r >= kRows || c >= kCols) {
              EXPECT_EQ(d[lane].p[i], 0);
              continue;
            }
            double exact = 0, size = 0;
            for (int k = 0; k < kRank; ++k) {
              const double product =
                  double{up[r * kRank + k]} * double{down[k * kCols + c]};
              exact += product;
              size += std::abs(product);
            }
            worst = std::max(worst, std::abs(d[lane].p[i] - exact) / size);
          }
        }
      }
    }
    EXPECT_LT(worst, precise ? 1e-6 : std::ldexp(1, -15));
  }
}

// The largest float32 is nearer to infinity than to a bfloat16.
TEST(WarpFactorsTest, SplittingDoesNotOverflow) {
  const float largest = std::numeric_limits<float>::max();
  const float zero = 0;
  const WarpFactors factors({FactorFormat::kFloat32, &largest, 1, 1},
                            {FactorFormat::kFloat32, &zero, 1, 1}, false);
  for (const uint16_t bits : factors.up) {
    EXPECT_LT(bits & BFloat16Weight::kMagnitude, BFloat16Weight::kExponent);
  }
}

}  // namespace
}  // namespace graft
