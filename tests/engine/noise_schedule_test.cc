#include "server/engine/pipeline/noise_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace graft {
namespace {

bool AllWithin(const std::vector<double>& timesteps, double end) {
  return std::all_of(timesteps.begin(), timesteps.end(),
                     [end](double t) { return t >= 0 && t < end; });
}

TEST(NoiseScheduleTest, EveryCountOfStepsHasSoManyTimestepsInTheSchedule) {
  for (const TimestepSpacing spacing :
       {TimestepSpacing::kLinspace, TimestepSpacing::kLeading,
        TimestepSpacing::kTrailing}) {
    NoiseScheduleConfig config;
    config.spacing = spacing;
    for (int steps = 1; steps <= 1000; ++steps) {
      for (const bool rounded : {false, true}) {
        const std::vector<double> timesteps =
            SpacedTimesteps(config, steps, rounded);
        EXPECT_EQ(timesteps.size(), static_cast<size_t>(steps))
            << "spacing " << static_cast<int>(spacing);
        EXPECT_TRUE(AllWithin(timesteps, 1000))
            << "spacing " << static_cast<int>(spacing) << ", steps " << steps;
      }
    }
  }
}

// A schedule whose noisy end is clipped has fewer, and still none below 0.
TEST(NoiseScheduleTest, TrailingTimestepsFromAnyStartAreInTheSchedule) {
  for (int start = 1; start <= 1000; start += 37) {
    for (int steps = 1; steps <= start; ++steps) {
      EXPECT_TRUE(AllWithin(TrailingTimesteps(start, 1000.0 / steps), start))
          << "start " << start << ", steps " << steps;
    }
  }
}

}  // namespace
}  // namespace graft
