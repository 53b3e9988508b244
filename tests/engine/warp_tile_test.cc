#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <vector>

#include "tests/engine/warp_case.h"
#include "tests/engine/weight_rounding.h"

// The CUDA kernels' pass over tiles against the CPU's, whoever runs it:
// HostWarp in warp_tile_test, the PTX that nvcc makes of it in
// ptx_kernels_test.

namespace graft {
namespace {

// Sizes with whole steps, with edges of every sort, and with several tiles.
struct Size {
  int64_t rows;
  int64_t cols;
};
constexpr Size kSizes[] = {{16, 32}, {1, 1},   {1, 70},   {3, 31},
                           {9, 33},  {40, 36}, {64, 128}, {129, 200}};

TEST_P(WarpTileTest, SameBitsAsOnTheCpu) {
  for (const WeightDtype dtype : kDtypes) {
    for (const Size& size : kSizes) {
      WarpCase weights(runner(), dtype, size.rows, size.cols, 0.1);
      const TwinTerms terms = weights.AllKinds();
      const std::vector<uint8_t> expected = weights.MergeOnCpu(terms.cpu);
      std::vector<uint64_t> checksums = weights.Checksums();
      WarpState merged{terms.warp, {}, {}};
      weights.Switch(nullptr, &merged, &checksums);
      ASSERT_EQ(weights.weights(), expected) << size.rows << "x" << size.cols;
    }
  }
}

// Tiles without edges, whose terms are products: from the base to one, to two,
// to three of them, and back.
TEST_P(WarpTileTest, SumsOfProductsOnWholeTiles) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(runner(), dtype, 64, 128, 0.1);
    std::list<WarpState> states;
    std::vector<std::vector<uint8_t>> expected;
    std::vector<uint64_t> checksums = weights.Checksums();
    for (int count = 1; count <= 3; ++count) {
      const TwinTerms terms = weights.Products(count);
      expected.push_back(weights.MergeOnCpu(terms.cpu));
      states.push_back({terms.warp, {}, {}});
    }
    WarpState* from = nullptr;
    for (WarpState& to : states) {
      weights.Switch(from, &to, &checksums);
      ASSERT_EQ(weights.weights(), expected[to.terms.size() - 1])
          << to.terms.size() << " products";
      from = &to;
    }
    weights.Switch(from, nullptr, &checksums);
    ASSERT_EQ(weights.weights(), weights.base());
  }
}

// All ways make the same weights and the same logs; the plain ones take every
// tile that they can.
TEST_P(WarpTileTest, PlainWaysAreAsTheGeneralOne) {
  for (const WeightDtype dtype : kDtypes) {
    for (const double norm : {0.003, 0.1, 3.0}) {
      WarpCase plain(runner(), dtype, 65, 192, norm),
          sums(runner(), dtype, 65, 192, norm),
          general(runner(), dtype, 65, 192, norm);
      sums.TakeAllForSums();
      general.ForbidPlain();
      std::list<WarpState> states;
      const WarpState* from[] = {nullptr, nullptr, nullptr};
      for (const int count : {1, 1, 3, 2, 0, 2, 0, 1, 0}) {
        const auto next = [&](WarpCase& weights, const WarpState*& now) {
          const TwinTerms terms = weights.Products(count);
          WarpState* to = nullptr;
          if (count > 0) {
            to = &states.emplace_back(WarpState{terms.warp, {}, {}});
          }
          weights.Switch(now, to);
          now = to;
        };
        next(plain, from[0]);
        next(sums, from[1]);
        next(general, from[2]);
        ASSERT_EQ(plain.weights(), general.weights());
        ASSERT_EQ(sums.weights(), general.weights());
        EXPECT_EQ(plain.summary().log_bytes, general.summary().log_bytes);
        EXPECT_EQ(sums.summary().log_bytes, general.summary().log_bytes);
        // The last row of three tiles is an edge.
        EXPECT_GE(plain.summary().num_rest, 3u);
        if (norm < 1) {
          EXPECT_EQ(plain.summary().num_rest, 3u);
        }
      }
      EXPECT_EQ(plain.weights(), plain.base());
    }
  }
}

// From a set to another by a copy of W0, as --restore=backup keeps: whatever is
// live and whatever the old terms are, and without a log.
TEST_P(WarpTileTest, MergesIntoACopyOnWholeTiles) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(runner(), dtype, 64, 128, 0.1);
    const TwinTerms terms = weights.Products(2);
    std::vector<uint64_t> checksums = weights.Checksums();
    const std::vector<uint8_t> expected = weights.MergeOnCpu(terms.cpu);
    AlignedBytes copy(weights.base().size());
    std::memcpy(copy.data(), weights.base().data(), copy.size());
    std::memset(weights.live(), 0x11, copy.size());
    WarpState from{weights.AllKinds().warp, {}, {}}, to{terms.warp, {}, {}};
    SwitchParameter parameter = weights.Parameter(&from, &to);
    parameter.pristine = copy.data();
    parameter.old_records = nullptr;
    parameter.new_records = nullptr;
    parameter.checksums = checksums.data();
    for (const TileState state : weights.Run(parameter)) {
      EXPECT_EQ(state, TileState::kDone);
    }
    EXPECT_EQ(weights.weights(), expected);
    EXPECT_EQ(weights.summary().log_bytes, 0u);

    copy.data()[100] ^= 4;
    EXPECT_EQ(weights.Run(parameter)[0], TileState::kDrifted);
  }
}

// Promise 1 in the small: from the base to a set, to another, and back.
TEST_P(WarpTileTest, RestoresEveryBit) {
  for (const WeightDtype dtype : kDtypes) {
    for (const Size& size : kSizes) {
      for (const double norm : {0.003, 0.1, 3.0, 1e4}) {
        WarpCase weights(runner(), dtype, size.rows, size.cols, norm);
        TwinTerms low_rank;
        low_rank.Add(weights.LowRank(FactorFormat::kFloat32, 4));
        const TwinTerms all = weights.AllKinds();
        std::vector<uint64_t> checksums = weights.Checksums();
        WarpState first{low_rank.warp, {}, {}}, second{all.warp, {}, {}};
        WarpState again{low_rank.warp, {}, {}};
        weights.Switch(nullptr, &first, &checksums);
        const std::vector<uint8_t> merged = weights.weights();
        EXPECT_NE(merged, weights.base());
        weights.Switch(&first, &second, &checksums);
        weights.Switch(&second, &again, &checksums);
        EXPECT_EQ(weights.weights(), merged);
        weights.Switch(&again, nullptr, &checksums);
        ASSERT_EQ(weights.weights(), weights.base())
            << "dtype " << static_cast<int>(dtype) << " " << size.rows << "x"
            << size.cols << " norm " << norm;
      }
    }
  }
}

TEST_P(WarpTileTest, KeepsWhatACodeCannotSay) {
  for (const WeightDtype dtype : kDtypes) {
    // So large that nothing of W0 is left: more exceptions than a log holds.
    WarpCase weights(runner(), dtype, 64, 64, 1e4);
    TwinTerms terms;
    terms.Add(weights.Dense(FactorFormat::kFloat32));
    WarpState merged{terms.warp, {}, {}};
    weights.Switch(nullptr, &merged);
    for (const TileRecord& record : merged.records) {
      EXPECT_EQ(record.kind, TileRecord::Kind::kRaw);
    }
    weights.Switch(&merged, nullptr);
    EXPECT_EQ(weights.weights(), weights.base());
  }
}

TEST_P(WarpTileTest, RestoresWhatIsNotFinite) {
  WarpCase weights(runner(), WeightDtype::kBFloat16, 20, 40, 0.1);
  const uint16_t odd[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff, 0x7f7f};
  std::memcpy(weights.live() + 64, odd, sizeof(odd));
  const std::vector<uint8_t> before = weights.weights();
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kBFloat16, 3));
  WarpState merged{terms.warp, {}, {}};
  weights.Switch(nullptr, &merged);
  weights.Switch(&merged, nullptr);
  EXPECT_EQ(weights.weights(), before);
}

TEST_P(WarpTileTest, LogIsSmall) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(runner(), dtype, 256, 256, 0.1);
    weights.FillNormal();
    TwinTerms terms;
    terms.Add(weights.LowRank(FactorFormat::kBFloat16, 16));
    WarpState merged{terms.warp, {}, {}};
    weights.Switch(nullptr, &merged);
    EXPECT_LT(static_cast<double>(weights.summary().log_bytes),
              0.05 * static_cast<double>(weights.base().size()));
  }
}

TEST_P(WarpTileTest, ATileWhoseLogDoesNotFitIsAsItWas) {
  WarpCase weights(runner(), WeightDtype::kFloat16, 96, 128, 0.1);
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kFloat16, 8));
  WarpState whole{terms.warp, {}, {}};
  weights.Switch(nullptr, &whole);
  const std::vector<uint8_t> merged = weights.weights();
  const uint64_t bytes = weights.summary().log_bytes;
  weights.Switch(&whole, nullptr);

  WarpState part{terms.warp, {}, {}};
  const SwitchParameter parameter = weights.Parameter(nullptr, &part);
  std::vector<TileState> states = weights.Run(parameter, bytes / 2);
  EXPECT_EQ(weights.summary().log_bytes, bytes);
  EXPECT_GE(weights.summary().missing_bytes, bytes / 2);
  const std::vector<uint8_t> now = weights.weights();
  int without_room = 0;
  for (int64_t i = 0; i < weights.grid().num_tiles(); ++i) {
    const TileRange tile = weights.grid().tile(i);
    const bool done = states[static_cast<size_t>(i)] == TileState::kDone;
    if (!done) {
      EXPECT_EQ(states[static_cast<size_t>(i)], TileState::kNoRoom);
      ++without_room;
    }
    const std::vector<uint8_t>& expected = done ? merged : weights.base();
    for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
      const auto at =
          static_cast<size_t>(row * weights.grid().cols() + tile.col) * 2;
      EXPECT_EQ(std::memcmp(now.data() + at, expected.data() + at,
                            static_cast<size_t>(tile.cols) * 2),
                0);
    }
  }
  EXPECT_GT(without_room, 0);
  EXPECT_LT(without_room, static_cast<int>(states.size()));

  weights.RunAgain(parameter, bytes / 2, states);
  EXPECT_EQ(states,
            std::vector<TileState>(weights.num_tiles(), TileState::kDone));
  EXPECT_EQ(weights.weights(), merged);
  weights.Switch(&part, nullptr);
  EXPECT_EQ(weights.weights(), weights.base());
}

// More tiles than a small device has warps, and all of them for the general
// kernel, as their logs are raw: what one tile leaves in a warp's memory does
// not matter to the next, whether there was room for it or not.
TEST_P(WarpTileTest, WarpsTakeOneTileAfterAnother) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(runner(), dtype, 160, 320, 1e4);
    const TwinTerms terms = weights.Products(1);
    WarpState merged{terms.warp, {}, {}};
    const SwitchParameter parameter = weights.Parameter(nullptr, &merged);
    const uint64_t room = 12 * kWarpTileElements * WeightDtypeSize(dtype);
    std::vector<TileState> states = weights.Run(parameter, room);
    EXPECT_EQ(weights.summary().num_rest, weights.num_tiles());
    EXPECT_EQ(std::count(states.begin(), states.end(), TileState::kDone), 12);
    EXPECT_EQ(std::count(states.begin(), states.end(), TileState::kNoRoom), 13);

    weights.RunAgain(parameter, room, states);
    EXPECT_EQ(states,
              std::vector<TileState>(weights.num_tiles(), TileState::kDone));
    weights.Switch(&merged, nullptr);
    EXPECT_EQ(weights.weights(), weights.base());
  }
}

// Of a bit, of two signs, of two rows or columns that change places.
TEST_P(WarpTileTest, ChecksumsSeeEveryChange) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(runner(), dtype, kWarpTileRows, kWarpTileCols, 0.1);
    weights.FillNormal();
    const std::vector<uint64_t> whole = weights.Checksums();
    const size_t size = WeightDtypeSize(dtype);
    const size_t bytes = weights.base().size();
    for (size_t bit = 0; bit < bytes * 8; bit += 131) {
      weights.live()[bit / 8] ^= 1u << bit % 8;
      ASSERT_NE(weights.Checksums(), whole) << bit;
      weights.live()[bit / 8] ^= 1u << bit % 8;
    }
    for (size_t second = 2 * size - 1; second < bytes; second += 17 * size) {
      weights.live()[size - 1] ^= 0x80;
      weights.live()[second] ^= 0x80;
      ASSERT_NE(weights.Checksums(), whole) << second;
      weights.live()[size - 1] ^= 0x80;
      weights.live()[second] ^= 0x80;
    }
    const size_t row = kWarpTileCols * size;
    for (size_t other = 1; other < kWarpTileRows; ++other) {
      std::swap_ranges(weights.live(), weights.live() + row,
                       weights.live() + other * row);
      ASSERT_NE(weights.Checksums(), whole) << other;
      std::swap_ranges(weights.live(), weights.live() + row,
                       weights.live() + other * row);
    }
    for (size_t other = 1; other < kWarpTileCols; ++other) {
      const auto swap = [&] {
        for (size_t i = 0; i < kWarpTileRows; ++i) {
          uint8_t* const first = weights.live() + i * row;
          std::swap_ranges(first, first + size, first + other * size);
        }
      };
      swap();
      ASSERT_NE(weights.Checksums(), whole) << other;
      swap();
    }
    ASSERT_EQ(weights.Checksums(), whole);
  }
}

TEST_P(WarpTileTest, ATileThatDriftedIsAsItWas) {
  WarpCase weights(runner(), WeightDtype::kBFloat16, 64, 64, 0.1);
  std::vector<uint64_t> checksums = weights.Checksums();
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kBFloat16, 8));
  WarpState merged{terms.warp, {}, {}};
  weights.live()[100] ^= 4;
  const std::vector<uint8_t> before = weights.weights();
  SwitchParameter parameter = weights.Parameter(nullptr, &merged);
  parameter.checksums = checksums.data();
  const std::vector<TileState> states = weights.Run(parameter);
  EXPECT_EQ(states[0], TileState::kDrifted);
  EXPECT_EQ(states[1], TileState::kDone);
  EXPECT_EQ(weights.summary().num_drifted, 1u);
  const std::vector<uint8_t> after = weights.weights();
  EXPECT_TRUE(
      std::equal(before.begin(), before.begin() + 32 * 64 * 2, after.begin()));
}

// Memory changed the records of a log: nothing beyond the log is read, and the
// tile is as it was.
TEST_P(WarpTileTest, ARecordThatNoLogHasIsDrift) {
  WarpCase weights(runner(), WeightDtype::kFloat16, 64, 128, 0.1);
  std::vector<uint64_t> checksums = weights.Checksums();
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kFloat16, 8));
  WarpState state{terms.warp, {}, {}};
  weights.Switch(nullptr, &state);
  const std::vector<uint8_t> merged = weights.weights();
  state.records[0].num_codes = 1u << 30;
  state.records[1].offset = uint64_t{1} << 60;
  state.records[2].num_exceptions = 60000;
  state.records[3].offset += 8;  // not where logs begin
  SwitchParameter parameter = weights.Parameter(&state, nullptr);
  parameter.checksums = checksums.data();
  for (const TileState tile : weights.Run(parameter)) {
    EXPECT_EQ(tile, TileState::kDrifted);
  }
  EXPECT_EQ(weights.weights(), merged);
}

TEST_P(WarpTileTest, ExtractsAndCopies) {
  WarpCase weights(runner(), WeightDtype::kFloat16, 50, 72, 0.1);
  TwinTerms terms;
  terms.Add(weights.Hadamard(FactorFormat::kFloat16, 4));
  WarpState state{terms.warp, {}, {}};
  weights.Switch(nullptr, &state);
  const std::vector<uint8_t> merged = weights.weights();

  AlignedBytes w0(merged.size());
  SwitchParameter extract = weights.Parameter(&state, nullptr);
  extract.extract = w0.data();
  weights.Run(extract);
  EXPECT_EQ(weights.weights(), merged);
  EXPECT_EQ(std::memcmp(w0.data(), weights.base().data(), merged.size()), 0);

  // From a copy of W0, whatever is live.
  SwitchParameter copied = weights.Parameter(&state, nullptr);
  copied.old_records = nullptr;
  copied.pristine = w0.data();
  std::memset(weights.live(), 0x11, merged.size());
  weights.Run(copied);
  EXPECT_EQ(weights.weights(), weights.base());

  SwitchParameter ready = weights.Parameter(nullptr, nullptr);
  AlignedBytes aligned(merged.size());
  std::memcpy(aligned.data(), merged.data(), merged.size());
  ready.merged = aligned.data();
  weights.Run(ready);
  EXPECT_EQ(weights.weights(), merged);
}

// The sums alone, as they are asked for where W0 decides what becomes of it.
TEST_P(WarpTileTest, SumsTermsAsOnTheCpu) {
  for (const Size& size : kSizes) {
    WarpCase weights(runner(), WeightDtype::kFloat32, size.rows, size.cols, 1);
    weights.FillZero();
    const TwinTerms terms = weights.AllKinds();
    for (const size_t count : {size_t{1}, terms.warp.size()}) {
      const std::vector<uint8_t> expected =
          weights.MergeOnCpu(DeltaTerms(terms.cpu.data(), count));
      const std::vector<float> sums = weights.SumTerms(
          {terms.warp.begin(), terms.warp.begin() + static_cast<long>(count)});
      ASSERT_EQ(std::memcmp(sums.data(), expected.data(), expected.size()), 0)
          << size.rows << "x" << size.cols;
    }
  }
}

}  // namespace
}  // namespace graft
