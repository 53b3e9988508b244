#include "server/scheduling/task_liveness.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::Contains;
using testing::Pair;

const absl::Time kNow = absl::FromUnixSeconds(100);

GenerationTask TaskWith(absl::Time deadline, bool cancelled) {
  GenerationTask task;
  task.params.steps = 10;
  task.deadline = deadline;
  task.cancelled = std::make_shared<std::atomic<bool>>(cancelled);
  return task;
}

TEST(TaskLivenessTest, WantedTaskIsOk) {
  EXPECT_THAT(
      CheckTaskLiveness(TaskWith(kNow + absl::Seconds(1), false), kNow, {}),
      IsOk());
}

TEST(TaskLivenessTest, TaskWithoutFlagIsOk) {
  EXPECT_THAT(CheckTaskLiveness(GenerationTask(), kNow, {}), IsOk());
}

TEST(TaskLivenessTest, CancelledByClient) {
  EXPECT_THAT(
      CheckTaskLiveness(TaskWith(absl::InfiniteFuture(), true), kNow, {}),
      HasReason(ErrorReason::kClientCancelled));
}

TEST(TaskLivenessTest, WithdrawnAdapterIsTheAdministratorsDoing) {
  GenerationTask task = TaskWith(absl::InfiniteFuture(), false);
  task.adapter_withdrawn = std::make_shared<std::atomic<bool>>(false);
  EXPECT_THAT(CheckTaskLiveness(task, kNow, {}), IsOk());
  task.adapter_withdrawn->store(true);
  EXPECT_THAT(CheckTaskLiveness(task, kNow, {}),
              HasReason(ErrorReason::kAdminCancelled));
}

TEST(TaskLivenessTest, DeadlinePassedBeforeTheDeviceBegan) {
  EXPECT_THAT(CheckTaskLiveness(TaskWith(kNow, false), kNow, {}),
              HasReason(ErrorReason::kDeadlineInQueue));
}

TEST(TaskLivenessTest, DeadlinePassedWhileRunningTellsTheSteps) {
  const absl::Status status =
      CheckTaskLiveness(TaskWith(kNow, false), kNow,
                        {.started = true, .image_index = 2, .steps_done = 7});
  EXPECT_THAT(status, HasReason(ErrorReason::kDeadlineRunning));
  EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("steps_done", "7")));
  EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("image_index", "2")));
}

// gRPC reports a cancellation when the deadline passes: the deadline is the
// cause and must be what is told.
TEST(TaskLivenessTest, DeadlineComesBeforeCancellation) {
  EXPECT_THAT(CheckTaskLiveness(TaskWith(kNow, true), kNow, {}),
              HasReason(ErrorReason::kDeadlineInQueue));
}

}  // namespace
}  // namespace graft
