#include "server/scheduling/device_rate.h"

#include "gtest/gtest.h"

namespace graft {
namespace {

TEST(DeviceRateTest, KnowsNothingAtFirst) {
  EXPECT_EQ(DeviceRate().TimeFor(1000), absl::ZeroDuration());
}

TEST(DeviceRateTest, IsTimeOverWork) {
  DeviceRate rate;
  rate.Add(100, absl::Milliseconds(10));
  rate.Add(300, absl::Milliseconds(30));
  EXPECT_EQ(rate.TimeFor(50), absl::Milliseconds(5));
}

TEST(DeviceRateTest, FollowsADeviceThatBecomesSlower) {
  DeviceRate rate;
  for (int i = 0; i < 1000; ++i) rate.Add(100, absl::Milliseconds(1));
  for (int i = 0; i < 1000; ++i) rate.Add(100, absl::Milliseconds(9));
  EXPECT_GT(rate.TimeFor(100), absl::Microseconds(8990));
}

}  // namespace
}  // namespace graft
