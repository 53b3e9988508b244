#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/scheduling/scheduler_fixture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr ErrorReason kDrift = ErrorReason::kBaseWeightsDrift;

// The base's weights at fault, and their verification.
class RequestSchedulerDriftTest : public SchedulerFixture {
 protected:
  RequestSchedulerDriftTest() {
    Load("ink");
    Start({.on_drift = [this](const absl::Status& status) {
      told_.push_back(
          status.ok() ? "ok"
                      : std::string(ErrorReasonName(*GetErrorReason(status))));
    }});
  }

  // Its thread writes told_.
  ~RequestSchedulerDriftTest() override { scheduler_.reset(); }

  // From now on switches find the base damaged, until a verification, which can
  // repair it or not.
  void DamageBase(bool repairable) {
    engine_.SetDrift({"unet.conv_in.weight"}, repairable);
    engine_.Fail(Call::kSwitch, Error(kDrift, "checksum"));
    engine_.OnCall(Call::kVerify,
                   [this] { engine_.Fail(Call::kSwitch, absl::OkStatus()); });
  }

  absl::StatusOr<VerifyReport> Verify(bool repair) {
    std::promise<absl::StatusOr<VerifyReport>> report;
    scheduler_->VerifyBaseWeights(
        repair, [&](const auto& result) { report.set_value(result); });
    return report.get_future().get();
  }

  // What on_drift was told, once the owner thread is at rest: a repair that is
  // due comes after the first job and before the second.
  std::vector<std::string> Told() {
    for (int i = 0; i < 2; ++i) {
      std::promise<void> done;
      scheduler_->RunOnOwnerThread([&](Engine&) { done.set_value(); });
      done.get_future().wait();
    }
    return told_;
  }

  std::vector<std::string> told_;  // owner thread
};

TEST_F(RequestSchedulerDriftTest, DriftFailsTheRequestAndIsRepaired) {
  DamageBase(/*repairable=*/true);
  EXPECT_THAT(Submit(TaskWith("ink")).observer->Wait(), HasReason(kDrift));
  auto task = TaskWith("ink");
  const auto expected = ExpectedImages(*task);
  const Submitted next = Submit(std::move(task));
  EXPECT_THAT(next.observer->Wait(), IsOk());
  EXPECT_EQ(next.observer->images(), expected);
  EXPECT_EQ(engine_.calls(Call::kVerify), 1);
  EXPECT_THAT(Told(), ElementsAre("BASE_WEIGHTS_DRIFT", "ok"));
}

// Nobody can tell since when the weights are wrong.
TEST_F(RequestSchedulerDriftTest, DriftEndsAllThatHasBegun) {
  std::unique_ptr<GenerationTask> job = Task();
  job->priority = Priority::kBatch;
  job->params.steps = 20;
  const Submitted yielding = SubmitAndBlockIn(Call::kStep, std::move(job));
  DamageBase(/*repairable=*/true);
  const Submitted urgent = Submit(TaskWith("ink"));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(urgent.observer->Wait(), HasReason(kDrift));
  EXPECT_THAT(yielding.observer->Wait(), HasReason(kDrift));
  EXPECT_THAT(Submit(Task()).observer->Wait(), IsOk());
  EXPECT_EQ(engine_.live_generations(), 0);
}

TEST_F(RequestSchedulerDriftTest, WhatWaitsSurvivesARepair) {
  const Submitted running = SubmitAndBlockIn(Call::kSwitch, TaskWith("ink"));
  DamageBase(/*repairable=*/true);
  const Submitted waiting = Submit(Task());
  engine_.Unblock(Call::kSwitch);
  EXPECT_THAT(running.observer->Wait(), HasReason(kDrift));
  EXPECT_THAT(waiting.observer->Wait(), IsOk());
}

TEST_F(RequestSchedulerDriftTest, AnUnrepairableBaseServesNobody) {
  const Submitted running = SubmitAndBlockIn(Call::kSwitch, TaskWith("ink"));
  DamageBase(/*repairable=*/false);
  const Submitted waiting = Submit(Task());
  engine_.Unblock(Call::kSwitch);
  EXPECT_THAT(running.observer->Wait(), HasReason(kDrift));
  EXPECT_THAT(waiting.observer->Wait(), HasReason(kDrift));
  EXPECT_THAT(Told(), ElementsAre("BASE_WEIGHTS_DRIFT", "BASE_WEIGHTS_DRIFT"));
  const Submitted refused = Submit(Task());
  EXPECT_THAT(refused.accepted, HasReason(kDrift));
  EXPECT_THAT(refused.observer->events(), IsEmpty());
  EXPECT_EQ(engine_.calls(Call::kStep), 0);

  // Looking at it again does not help, a repair does.
  EXPECT_THAT(Verify(/*repair=*/false), IsOk());
  EXPECT_THAT(Submit(Task()).accepted, HasReason(kDrift));
  engine_.SetDrift({"unet.conv_in.weight"}, /*repairable=*/true);
  EXPECT_THAT(Verify(/*repair=*/true), IsOk());
  EXPECT_THAT(Submit(Task()).observer->Wait(), IsOk());
  EXPECT_EQ(Told().back(), "ok");
}

TEST_F(RequestSchedulerDriftTest, ARepairThatFailsIsNoRepair) {
  DamageBase(/*repairable=*/true);
  engine_.Fail(Call::kVerify, Error(ErrorReason::kInternal, "no such file"));
  EXPECT_THAT(Submit(TaskWith("ink")).observer->Wait(), HasReason(kDrift));
  Told();
  EXPECT_THAT(Submit(Task()).accepted, HasReason(kDrift));
  engine_.Fail(Call::kVerify, absl::OkStatus());
  EXPECT_THAT(Verify(/*repair=*/true), IsOk());
  EXPECT_THAT(Submit(Task()).observer->Wait(), IsOk());
}

// Whoever looks at the health sends no request that could bring it about.
TEST_F(RequestSchedulerDriftTest, TheRepairDoesNotWaitForARequest) {
  DamageBase(/*repairable=*/true);
  EXPECT_THAT(Submit(TaskWith("ink")).observer->Wait(), HasReason(kDrift));
  EXPECT_TRUE(engine_.WaitUntilCalled(Call::kVerify, 1));
}

TEST_F(RequestSchedulerDriftTest, VerifyingAnIntactBaseTellsNobody) {
  const auto report = Verify(/*repair=*/true);
  ASSERT_THAT(report, IsOk());
  EXPECT_THAT(report->differing, IsEmpty());
  engine_.Fail(Call::kVerify, Error(ErrorReason::kInternal, "busy"));
  EXPECT_THAT(Verify(/*repair=*/false), HasReason(ErrorReason::kInternal));
  EXPECT_THAT(Submit(Task()).observer->Wait(), IsOk());
  EXPECT_THAT(Told(), IsEmpty());
}

TEST_F(RequestSchedulerDriftTest, VerifyingRunsBetweenTwoSteps) {
  auto task = TaskWith("ink");
  const auto expected = ExpectedImages(*task);
  const Submitted running = SubmitAndBlockIn(Call::kStep, std::move(task));
  std::promise<int> steps;
  std::vector<AppliedAdapter> resident = scheduler_->resident();
  EXPECT_EQ(resident.size(), 1u);
  scheduler_->VerifyBaseWeights(/*repair=*/false, [&](const auto& report) {
    EXPECT_THAT(report, IsOk());
    resident = scheduler_->resident();
    steps.set_value(engine_.calls(Call::kStep));
  });
  engine_.Unblock(Call::kStep);
  EXPECT_EQ(steps.get_future().get(), 1);
  EXPECT_THAT(resident, IsEmpty());
  EXPECT_THAT(running.observer->Wait(), IsOk());
  EXPECT_EQ(running.observer->images(), expected);
}

TEST_F(RequestSchedulerDriftTest, OneComparisonServesAllThatWait) {
  const Submitted running = SubmitAndBlockIn(Call::kStep, Task());
  absl::BlockingCounter told(3);
  for (int i = 0; i < 3; ++i) {
    scheduler_->VerifyBaseWeights(/*repair=*/false, [&](const auto& report) {
      EXPECT_THAT(report, IsOk());
      told.DecrementCount();
    });
  }
  engine_.Unblock(Call::kStep);
  told.Wait();
  EXPECT_EQ(engine_.calls(Call::kVerify), 1);
  EXPECT_THAT(running.observer->Wait(), IsOk());
}

TEST_F(RequestSchedulerDriftTest, ADifferenceThatIsFoundEndsWhatRuns) {
  const Submitted running = SubmitAndBlockIn(Call::kStep, TaskWith("ink"));
  const Submitted waiting = Submit(Task());
  engine_.SetDrift({"unet.conv_in.weight"}, /*repairable=*/true);
  std::promise<absl::StatusOr<VerifyReport>> promise;
  scheduler_->VerifyBaseWeights(
      /*repair=*/false, [&](const auto& found) { promise.set_value(found); });
  engine_.Unblock(Call::kStep);
  const auto report = promise.get_future().get();
  ASSERT_THAT(report, IsOk());
  EXPECT_THAT(report->unrepaired, ElementsAre("unet.conv_in.weight"));
  EXPECT_THAT(running.observer->Wait(), HasReason(kDrift));
  // Repaired before the next one, though nobody asked.
  EXPECT_THAT(waiting.observer->Wait(), IsOk());
  EXPECT_EQ(engine_.calls(Call::kVerify), 2);
  EXPECT_THAT(Told(), ElementsAre("BASE_WEIGHTS_DRIFT", "ok"));
}

}  // namespace
}  // namespace graft
