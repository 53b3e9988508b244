#include "server/scheduling/weight_schedule.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

// The index of the range of each step, '-' for none: "001-".
std::string Ranges(const std::vector<WeightRange>& schedule, int steps) {
  std::string ranges;
  for (int step = 0; step < steps; ++step) {
    const WeightRange* const range = RangeAtStep(schedule, step, steps);
    ranges += range == nullptr
                  ? '-'
                  : static_cast<char>('0' + (range - schedule.data()));
  }
  return ranges;
}

TEST(WeightScheduleTest, StepsBelongToTheRangeThatTheyBeginIn) {
  const std::vector<WeightRange> schedule = {{.from = 0, .to = 0.4},
                                             {.from = 0.4, .to = 1}};
  EXPECT_EQ(Ranges(schedule, 5), "00111");
  EXPECT_EQ(Ranges(schedule, 10), "0000111111");
  EXPECT_EQ(Ranges(schedule, 4), "0011");  // step 1 begins at 0.25
  EXPECT_EQ(Ranges(schedule, 1), "0");
}

TEST(WeightScheduleTest, OutsideOfTheRangesThereIsNone) {
  EXPECT_EQ(Ranges({{.from = 0.25, .to = 0.75}}, 8), "--0000--");
  EXPECT_EQ(Ranges({}, 3), "---");
}

TEST(WeightScheduleTest, ARangeBetweenTwoStepsHasNone) {
  EXPECT_EQ(Ranges({{.from = 0.3, .to = 0.4}}, 2), "--");
}

// In binary 0.1 * 3 * 10 and the like lie just above or below the whole number.
TEST(WeightScheduleTest, BordersAreDecimals) {
  for (int steps : {10, 20, 50, 100, 1000}) {
    for (int tenths = 1; tenths < 10; ++tenths) {
      const std::vector<WeightRange> schedule = {
          {.from = 0, .to = tenths / 10.0}, {.from = tenths * 0.1, .to = 1}};
      const size_t border = static_cast<size_t>(steps) * tenths / 10;
      EXPECT_EQ(Ranges(schedule, steps),
                std::string(border, '0') + std::string(steps - border, '1'))
          << tenths << " tenths of " << steps;
    }
  }
}

// Neighbours share each border, so no step is in both or in none.
TEST(WeightScheduleTest, NeighboursShareAllSteps) {
  for (int steps = 1; steps < 60; ++steps) {
    for (double border : {0.001, 1.0 / 3, 0.5, 0.7, 0.999}) {
      const std::string ranges =
          Ranges({{.from = 0, .to = border}, {.from = border, .to = 1}}, steps);
      EXPECT_THAT(ranges, testing::MatchesRegex("0+1*")) << steps << border;
    }
  }
}

}  // namespace
}  // namespace graft
