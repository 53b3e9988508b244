#include "server/rpc/serving_state.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::HasSubstr;

TEST(ServingStateTest, RefusesUntilTheBackendIsThere) {
  ServingState state(absl::Seconds(2));
  EXPECT_THAT(state.Get(), HasReason(ErrorReason::kStarting));
  EXPECT_EQ(GetRetryDelay(state.Get().status()), absl::Seconds(2));
  const Backend backend;
  state.SetServing(&backend);
  EXPECT_THAT(state.Get(), IsOkAndHolds(&backend));
}

TEST(ServingStateTest, DrainingIsForGood) {
  ServingState state(absl::Seconds(2));
  state.SetDraining();
  const Backend backend;
  state.SetServing(&backend);  // the base was loaded too late
  EXPECT_THAT(state.Get(), HasReason(ErrorReason::kDraining));
  EXPECT_EQ(GetRetryDelay(state.Get().status()), absl::Seconds(2));
}

TEST(ServingStateTest, TellsDrainingFromStopping) {
  ServingState state(absl::Seconds(2));
  state.SetDraining();
  EXPECT_THAT(state.Get(),
              HasReason(ErrorReason::kDraining, HasSubstr("is draining")));
  state.SetStopping();
  EXPECT_THAT(state.Get(),
              HasReason(ErrorReason::kDraining, HasSubstr("shutting down")));
  EXPECT_TRUE(state.draining());
}

TEST(ServingStateTest, SomeMethodsWorkWhileItDrains) {
  ServingState state(absl::Seconds(2));
  EXPECT_THAT(state.GetWhileDraining(), HasReason(ErrorReason::kStarting));
  EXPECT_FALSE(state.draining());
  const Backend backend;
  state.SetServing(&backend);
  state.SetDraining();
  EXPECT_TRUE(state.draining());
  EXPECT_THAT(state.GetWhileDraining(), IsOkAndHolds(&backend));
}

}  // namespace
}  // namespace graft
