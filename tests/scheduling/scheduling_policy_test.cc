#include "server/scheduling/scheduling_policy.h"

#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

WaitingRequest At(int second) {
  return {.accepted_at = absl::FromUnixSeconds(second)};
}

TEST(SchedulingPolicyTest, ChoosesTheOldest) {
  EXPECT_EQ(ChooseNextRequest(std::vector{At(3), At(1), At(2)}), 1u);
}

TEST(SchedulingPolicyTest, KeepsTheOrderOfEquals) {
  EXPECT_EQ(ChooseNextRequest(std::vector{At(2), At(1), At(1)}), 1u);
}

TEST(SchedulingPolicyTest, ChoosesTheOnlyOne) {
  EXPECT_EQ(ChooseNextRequest(std::vector{At(7)}), 0u);
}

}  // namespace
}  // namespace graft
