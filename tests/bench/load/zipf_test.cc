#include "tests/bench/load/zipf.h"

#include <gtest/gtest.h>

namespace graft::load {
namespace {

TEST(ZipfTest, FallsWithTheRanksPower) {
  const Zipf zipf(200, 1.5);
  EXPECT_DOUBLE_EQ(zipf.Probability(0) / zipf.Probability(3), 8);
}

TEST(ZipfTest, SumsToOne) {
  const Zipf zipf(200, 1);
  double sum = 0;
  for (size_t rank = 0; rank < 200; ++rank) sum += zipf.Probability(rank);
  EXPECT_DOUBLE_EQ(sum, 1);
}

TEST(ZipfTest, ExponentZeroMakesAllAlike) {
  const Zipf zipf(4, 0);
  for (size_t rank = 0; rank < 4; ++rank) {
    EXPECT_DOUBLE_EQ(zipf.Probability(rank), 0.25);
  }
}

TEST(ZipfTest, DrawsAsOftenAsProbable) {
  const Zipf zipf(10, 1);
  RandomSource random(1);
  std::vector<int> drawn(10);
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) ++drawn.at(zipf.Draw(random));
  for (size_t rank = 0; rank < 10; ++rank) {
    EXPECT_NEAR(drawn[rank] / double{kDraws}, zipf.Probability(rank), 0.006)
        << rank;
  }
}

TEST(ZipfTest, OfOneThingDrawsIt) {
  const Zipf zipf(1, 1);
  RandomSource random(1);
  EXPECT_EQ(zipf.Draw(random), 0u);
}

}  // namespace
}  // namespace graft::load
