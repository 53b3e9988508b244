#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "server/engine/cuda/plain_tile.h"
#include "server/engine/cuda/warp_tile.h"
#include "tests/engine/host_warp.h"
#include "tests/engine/warp_runner.h"

namespace graft {
namespace {

// What the last warp left in shared memory must not matter.
template <class Scratch>
std::unique_ptr<Scratch> DirtyScratch() {
  auto scratch = std::make_unique<Scratch>();
  std::memset(scratch.get(), 0xa5, sizeof(*scratch));
  return scratch;
}

// As the two kernels do.
template <class Weight>
void RunTiles(const SwitchLaunch& launch, WeightDtype dtype) {
  using Bits = typename Weight::Bits;
  uint64_t count = launch.num_tiles;
  if (launch.rest != nullptr) {
    for (uint64_t tile = 0; tile < count; ++tile) {
      const auto scratch = DirtyScratch<PlainScratch<Bits>>();
      if (launch.sums) {
        RunPlainTile<HostWarp, Weight, true>(launch, dtype, tile, *scratch);
      } else {
        RunPlainTile<HostWarp, Weight, false>(launch, dtype, tile, *scratch);
      }
      EXPECT_TRUE(HostWarp::copies.empty()) << "into memory of others";
    }
    count = launch.summary->num_rest;
  }
  for (uint64_t i = 0; i < count; ++i) {
    const auto scratch = DirtyScratch<WarpScratch<Bits>>();
    RunWarpTile<HostWarp, Weight>(
        launch, dtype, launch.rest != nullptr ? launch.rest[i] : i, *scratch);
    EXPECT_TRUE(HostWarp::copies.empty()) << "into memory of others";
  }
}

}  // namespace

void HostRunner::Switch(const SwitchLaunch& launch, WeightDtype dtype,
                        absl::Span<const LaunchBuffer>) {
  switch (dtype) {
    case WeightDtype::kFloat32:
      RunTiles<Float32Weight>(launch, dtype);
      break;
    case WeightDtype::kBFloat16:
      RunTiles<BFloat16Weight>(launch, dtype);
      break;
    case WeightDtype::kFloat16:
      RunTiles<Float16Weight>(launch, dtype);
      break;
  }
}

void HostRunner::SumTerms(absl::Span<const DeltaTerm> terms, int64_t rows,
                          int64_t cols, float* delta,
                          absl::Span<const LaunchBuffer>) {
  TermSum<HostWarp> sum(terms.data(), static_cast<uint32_t>(terms.size()));
  WarpStep step;
  step.rows = static_cast<int>(rows);
  step.cols = static_cast<int>(cols);
  for (step.row = 0; step.row < step.rows; step.row += kStepRows) {
    for (step.col = 0; step.col < step.cols; step.col += kStepCols) {
      HostWarp::Lanes<LaneDelta> d;
      sum.Prefetch(step);
      sum.Compute(step, d);
      HostWarp::Each([&](int lane) {
        for (int i = 0; i < kLaneElements; ++i) {
          if ((step.Valid(lane) >> i & 1u) == 0) continue;
          delta[step.PlaceOf(lane, i)] = d[lane].c * d[lane].p[i];
        }
      });
    }
  }
}

}  // namespace graft
