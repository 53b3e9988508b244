#include "tests/bench/load/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace graft::load {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Arrivals Poisson(double rate, absl::Duration duration, uint64_t seed) {
  RandomSource random(seed);
  return PoissonArrivals(rate, duration, random);
}

TEST(PoissonArrivalsTest, AreAsManyAsTheRateSays) {
  // The standard deviation of a Poisson number is its mean's root.
  EXPECT_NEAR(Poisson(5, absl::Seconds(8000), 1).size(), 40000, 4 * 200);
}

TEST(PoissonArrivalsTest, HaveExponentialGaps) {
  const Arrivals arrivals = Poisson(1, absl::Seconds(40000), 2);
  int longer_than_two = 0;
  for (size_t i = 1; i < arrivals.size(); ++i) {
    longer_than_two += arrivals[i] - arrivals[i - 1] > absl::Seconds(2);
  }
  EXPECT_NEAR(longer_than_two / 40000., std::exp(-2), 0.01);
}

TEST(PoissonArrivalsTest, AscendUntilTheEnd) {
  const Arrivals arrivals = Poisson(100, absl::Seconds(10), 3);
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  EXPECT_GE(arrivals.front(), absl::ZeroDuration());
  EXPECT_LT(arrivals.back(), absl::Seconds(10));
}

TEST(PoissonArrivalsTest, AreAFunctionOfTheSeed) {
  EXPECT_EQ(Poisson(5, absl::Seconds(9), 4), Poisson(5, absl::Seconds(9), 4));
  EXPECT_NE(Poisson(5, absl::Seconds(9), 4), Poisson(5, absl::Seconds(9), 5));
}

TEST(RecordedArrivalsTest, BeginAnewAtTheGapsEnd) {
  EXPECT_THAT(
      RecordedArrivals({absl::Seconds(1), absl::Seconds(3)}, absl::Seconds(9)),
      ElementsAre(absl::Seconds(1), absl::Seconds(4), absl::Seconds(5),
                  absl::Seconds(8)));
}

TEST(ScaleGapsTest, KeepsTheProportions) {
  EXPECT_THAT(ScaleGaps({absl::Seconds(1), absl::Seconds(3)}, 5),
              ElementsAre(absl::Milliseconds(100), absl::Milliseconds(300)));
}

TEST(ReadGapsTest, ReadsANumberALine) {
  std::istringstream text("# a comment\n0.5\n\n 2 \n0\n");
  const auto gaps = ReadGaps(text);
  ASSERT_TRUE(gaps.ok()) << gaps.status();
  EXPECT_THAT(*gaps, ElementsAre(absl::Milliseconds(500), absl::Seconds(2),
                                 absl::ZeroDuration()));
}

TEST(ReadGapsTest, NamesTheLineThatIsNoGap) {
  for (const char* const bad : {"1\nx\n", "1\n-1\n", "1\nnan\n", "1\ninf\n"}) {
    std::istringstream text(bad);
    EXPECT_THAT(ReadGaps(text).status().message(), HasSubstr("line 2")) << bad;
  }
}

TEST(ReadGapsTest, RefusesGapsThatNeverEnd) {
  for (const char* const bad : {"", "# none\n", "0\n0\n"}) {
    std::istringstream text(bad);
    EXPECT_FALSE(ReadGaps(text).ok()) << bad;
  }
}

}  // namespace
}  // namespace graft::load
