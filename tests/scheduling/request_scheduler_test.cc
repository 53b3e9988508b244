#include "server/scheduling/request_scheduler.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/engine/device_lost.h"
#include "tests/scheduling/scheduler_fixture.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::IsSubsetOf;
using testing::Pair;
using testing::SizeIs;
using testing::StartsWith;

constexpr int kQueueLength = 2;

class RequestSchedulerTest : public SchedulerFixture {
 protected:
  RequestSchedulerTest() { Start({.max_queued_requests = kQueueLength}); }
};

TEST_F(RequestSchedulerTest, ReportsTheWholeLifeOfARequest) {
  const Submitted request = Submit(Task());
  ASSERT_THAT(request.accepted, IsOk());
  EXPECT_THAT(request.observer->Wait(), IsOk());
  EXPECT_THAT(request.observer->events(),
              ElementsAre("queued 0", "started", "progress 0 1/2",
                          "progress 0 2/2", "image 0", "done"));
  const GenerationSummary summary = request.observer->summary();
  EXPECT_THAT(summary.seeds, ElementsAre(1));
  EXPECT_EQ(summary.base_sha256, engine_.info().base_sha256);
}

TEST_F(RequestSchedulerTest, RunsRequestsInOrderOfArrival) {
  const Submitted first = SubmitAndBlockIn(Call::kBegin, Task(1));
  const Submitted second = Submit(Task(2));
  const Submitted third = Submit(Task(3));
  engine_.Unblock(Call::kBegin);
  EXPECT_THAT(third.observer->Wait(), IsOk());
  const std::vector<GenerationParams> begun = engine_.begun();
  ASSERT_THAT(begun, SizeIs(3));
  EXPECT_EQ(begun[0].seed, 1u);
  EXPECT_EQ(begun[1].seed, 2u);
  EXPECT_EQ(begun[2].seed, 3u);
  EXPECT_EQ(second.observer->events().front(), "queued 1");
  EXPECT_EQ(third.observer->events().front(), "queued 2");
}

TEST_F(RequestSchedulerTest, TellsThoseThatWaitWhenTheirPlaceHasChanged) {
  const Submitted first = SubmitAndBlockIn(Call::kFinish, Task(1));
  const Submitted second = Submit(Task(2));
  std::unique_ptr<GenerationTask> other_size = Task(3);
  other_size->params.width *= 2;  // shares no batch
  const Submitted third = Submit(std::move(other_size));
  clock_.Advance(absl::Seconds(1));
  engine_.Block(Call::kBegin);
  engine_.Unblock(Call::kFinish);
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kBegin));
  engine_.Unblock(Call::kBegin);
  EXPECT_THAT(third.observer->Wait(), IsOk());
  std::vector<std::string> events = third.observer->events();
  events.resize(3);
  EXPECT_THAT(events, ElementsAre("queued 2", "queued 1", "started"));
  EXPECT_THAT(second.observer->Wait(), IsOk());
}

TEST_F(RequestSchedulerTest, ShowsPreviewsAsOftenAsAsked) {
  std::unique_ptr<GenerationTask> task = Task();
  task->params.steps = 5;
  task->preview_interval = 2;
  const Submitted request = Submit(std::move(task));
  EXPECT_THAT(request.observer->Wait(), IsOk());
  // One that comes before the last is encoded is left out.
  std::vector<std::string> previews;
  for (const std::string& event : request.observer->events()) {
    if (absl::StartsWith(event, "preview")) previews.push_back(event);
  }
  EXPECT_EQ(engine_.calls(Call::kPreview), 2);
  EXPECT_THAT(previews, IsSubsetOf({"preview 0 2/5", "preview 0 4/5"}));
}

TEST_F(RequestSchedulerTest, PreviewComesAfterItsStepAndBeforeTheImage) {
  std::unique_ptr<GenerationTask> task = Task();
  task->preview_interval = 1;
  engine_.Block(Call::kFinish);
  const Submitted request = Submit(std::move(task));
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kFinish));
  // Nothing takes the preview's place before it is encoded.
  request.observer->WaitForPreview();
  engine_.Unblock(Call::kFinish);
  EXPECT_THAT(request.observer->Wait(), IsOk());
  const std::vector<std::string> events = request.observer->events();
  const auto place = [&](const char* event) {
    return std::find(events.begin(), events.end(), event) - events.begin();
  };
  EXPECT_LT(place("progress 0 1/2"), place("preview 0 1/2"));
  EXPECT_LT(place("preview 0 1/2"), place("image 0"));
  EXPECT_THAT(request.observer->last_preview(), StartsWith("\x89PNG"));
}

TEST_F(RequestSchedulerTest, EndsTheRequestWhosePreviewFails) {
  engine_.Fail(Call::kPreview, absl::InternalError("injected"));
  std::unique_ptr<GenerationTask> task = Task();
  task->preview_interval = 1;
  const Submitted request = Submit(std::move(task));
  EXPECT_THAT(request.observer->Wait(), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(RequestSchedulerTest, APreviewThatFailsEndsTheOtherImagesToo) {
  engine_.Fail(Call::kPreview, absl::InternalError("injected"));
  std::unique_ptr<GenerationTask> task = Task();
  task->preview_interval = 1;
  task->count = 4;
  const Submitted request = Submit(std::move(task));
  EXPECT_THAT(request.observer->Wait(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(engine_.calls(Call::kPreview), 1);
}

TEST_F(RequestSchedulerTest, EachRequestRunsWithItsOwnAdaptersOnly) {
  const std::string sha256 = Load("ink");
  const Submitted with = Submit(TaskWith("ink", 0.5));
  const Submitted without = Submit(Task());
  EXPECT_THAT(with.observer->Wait(), IsOk());
  EXPECT_THAT(without.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.switches(),
              ElementsAre(FakeSet{{sha256, 0.5, 0.5}}, FakeSet{}));
  const GenerationSummary summary = with.observer->summary();
  ASSERT_THAT(summary.adapters, SizeIs(1));
  EXPECT_EQ(summary.adapters[0].name, "ink");
  EXPECT_EQ(summary.adapters[0].sha256, sha256);
  EXPECT_EQ(summary.adapters[0].weight, 0.5);
  EXPECT_THAT(without.observer->summary().adapters, IsEmpty());
}

TEST_F(RequestSchedulerTest, EachOfSeveralImagesEqualsTheSingleRequests) {
  std::unique_ptr<GenerationTask> three = Task(5);
  three->count = 3;
  const Submitted batch = Submit(std::move(three));
  EXPECT_THAT(batch.observer->Wait(), IsOk());
  EXPECT_THAT(batch.observer->summary().seeds, ElementsAre(5, 6, 7));
  for (int i = 0; i < 3; ++i) {
    const Submitted single = Submit(Task(5 + static_cast<uint64_t>(i)));
    EXPECT_THAT(single.observer->Wait(), IsOk());
    EXPECT_EQ(batch.observer->images().at(i), single.observer->images().at(0))
        << "image " << i;
  }
}

TEST_F(RequestSchedulerTest, SeedsWrapAround) {
  std::unique_ptr<GenerationTask> task = Task(~uint64_t{0});
  task->count = 2;
  const Submitted request = Submit(std::move(task));
  EXPECT_THAT(request.observer->Wait(), IsOk());
  EXPECT_THAT(request.observer->summary().seeds, ElementsAre(~uint64_t{0}, 0));
}

TEST_F(RequestSchedulerTest, RefusesWhenTheQueueIsFull) {
  const Submitted running = SubmitAndBlockIn(Call::kBegin, Task());
  for (int i = 0; i < kQueueLength; ++i) {
    EXPECT_THAT(Submit(Task()).accepted, IsOk());
  }
  const Submitted refused = Submit(Task());
  EXPECT_THAT(refused.accepted, HasReason(ErrorReason::kQueueFull));
  EXPECT_TRUE(GetRetryDelay(refused.accepted).has_value());
  EXPECT_THAT(refused.observer->events(), IsEmpty());
  engine_.Unblock(Call::kBegin);
}

TEST_F(RequestSchedulerTest, DeadRequestsMakeRoomInAFullQueue) {
  const Submitted running = SubmitAndBlockIn(Call::kBegin, Task());
  const Submitted dead = Submit(Task());
  EXPECT_THAT(Submit(Task()).accepted, IsOk());
  dead.cancelled->store(true);
  EXPECT_THAT(Submit(Task()).accepted, IsOk());
  EXPECT_THAT(dead.observer->Wait(), HasReason(ErrorReason::kClientCancelled));
  engine_.Unblock(Call::kBegin);
}

TEST_F(RequestSchedulerTest, RefusesADeadlineThatHasPassed) {
  std::unique_ptr<GenerationTask> task = Task();
  task->deadline = clock_.Now();
  EXPECT_THAT(Submit(std::move(task)).accepted,
              HasReason(ErrorReason::kDeadlineInQueue));
  EXPECT_EQ(engine_.calls(Call::kBegin), 0);
}

TEST_F(RequestSchedulerTest, DeadlineInQueueIsToldAtTheNextStepOfAnother) {
  const Submitted running = SubmitAndBlockIn(Call::kStep, Task());
  std::unique_ptr<GenerationTask> task = Task();
  task->deadline = clock_.Now() + absl::Seconds(5);
  const Submitted waiting = Submit(std::move(task));
  clock_.Advance(absl::Seconds(5));
  engine_.LetOneThrough(Call::kStep);
  EXPECT_THAT(waiting.observer->Wait(),
              HasReason(ErrorReason::kDeadlineInQueue));
  EXPECT_FALSE(running.observer->done());
  EXPECT_EQ(waiting.observer->summary().timings.queue, absl::Seconds(5));
  engine_.Unblock(Call::kStep);
}

TEST_F(RequestSchedulerTest, DeadlineWhileRunningTellsTheStepsDone) {
  std::unique_ptr<GenerationTask> task = Task();
  task->deadline = clock_.Now() + absl::Seconds(5);
  const Submitted request = SubmitAndBlockIn(Call::kStep, std::move(task));
  clock_.Advance(absl::Seconds(5));
  engine_.LetOneThrough(Call::kStep);
  const absl::Status status = request.observer->Wait();
  EXPECT_THAT(status, HasReason(ErrorReason::kDeadlineRunning));
  EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("steps_done", "1")));
  EXPECT_EQ(engine_.calls(Call::kStep), 1);
  engine_.Unblock(Call::kStep);
}

// Every stage looks first: whatever the client leaves during, the next stage is
// not begun.
TEST_F(RequestSchedulerTest, CancelledRequestStopsBeforeTheNextStage) {
  const struct {
    Call during;
    Call next;
  } kStages[] = {{Call::kSwitch, Call::kBegin},
                 {Call::kBegin, Call::kStep},
                 {Call::kStep, Call::kFinish}};
  for (const auto& [during, next] : kStages) {
    const int calls_before = engine_.calls(next);
    std::unique_ptr<GenerationTask> task = Task();
    task->params.steps = 1;  // so that decoding comes next
    const Submitted request = SubmitAndBlockIn(during, std::move(task));
    request.cancelled->store(true);
    engine_.Unblock(during);
    EXPECT_THAT(request.observer->Wait(),
                HasReason(ErrorReason::kClientCancelled));
    EXPECT_EQ(engine_.calls(next), calls_before);
    EXPECT_THAT(request.observer->images(), IsEmpty());
  }
  EXPECT_EQ(engine_.live_generations(), 0);
}

TEST_F(RequestSchedulerTest, AnErrorEndsItsOwnRequestOnly) {
  engine_.FailStep(1, Error(ErrorReason::kNonFiniteLatents, "step 1"));
  EXPECT_THAT(Submit(Task()).observer->Wait(),
              HasReason(ErrorReason::kNonFiniteLatents));
  engine_.FailStep(1, absl::OkStatus());
  EXPECT_THAT(Submit(Task()).observer->Wait(), IsOk());
}

TEST_F(RequestSchedulerTest, FailedSwitchLeavesTheFormerSetKnown) {
  Load("ink");
  Load("night");
  EXPECT_THAT(Submit(TaskWith("ink")).observer->Wait(), IsOk());
  engine_.Fail(Call::kSwitch, Error(ErrorReason::kAdapterNonFinite, "inf"));
  EXPECT_THAT(Submit(TaskWith("night")).observer->Wait(),
              HasReason(ErrorReason::kAdapterNonFinite));
  const std::vector<AppliedAdapter> resident = scheduler_->resident();
  ASSERT_THAT(resident, SizeIs(1));
  EXPECT_EQ(resident[0].name, "ink");
  engine_.Fail(Call::kSwitch, absl::OkStatus());
}

TEST_F(RequestSchedulerTest, TimesTheStages) {
  std::unique_ptr<GenerationTask> task = Task();
  task->params.steps = 1;
  engine_.Block(Call::kStep);
  engine_.Block(Call::kFinish);
  const Submitted request = SubmitAndBlockIn(Call::kBegin, std::move(task));
  clock_.Advance(absl::Milliseconds(3));
  engine_.Unblock(Call::kBegin);
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kStep));
  clock_.Advance(absl::Milliseconds(50));
  engine_.Unblock(Call::kStep);
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kFinish));
  clock_.Advance(absl::Milliseconds(7));
  engine_.Unblock(Call::kFinish);
  EXPECT_THAT(request.observer->Wait(), IsOk());
  const GenerationTimings timings = request.observer->summary().timings;
  EXPECT_EQ(timings.queue, absl::ZeroDuration());
  EXPECT_EQ(timings.adapter_switch, absl::ZeroDuration());
  EXPECT_EQ(timings.text_encode, absl::Milliseconds(3));
  EXPECT_EQ(timings.denoise, absl::Milliseconds(50));
  EXPECT_EQ(timings.vae_decode, absl::Milliseconds(7));
}

TEST_F(RequestSchedulerTest, SwitchTimeIsTheEngines) {
  Load("ink");
  const Submitted first = Submit(TaskWith("ink"));
  EXPECT_THAT(first.observer->Wait(), IsOk());
  const Submitted again = Submit(TaskWith("ink"));
  EXPECT_THAT(again.observer->Wait(), IsOk());
  EXPECT_EQ(first.observer->summary().timings.adapter_switch,
            absl::Milliseconds(1));
  EXPECT_EQ(again.observer->summary().timings.adapter_switch,
            absl::ZeroDuration());
}

TEST_F(RequestSchedulerTest, JobsRunBetweenRequestsAndBeforeQueuedOnes) {
  const Submitted running = SubmitAndBlockIn(Call::kBegin, Task());
  const Submitted queued = Submit(Task());
  std::promise<int> begun;
  scheduler_->RunOnOwnerThread(
      [&](Engine&) { begun.set_value(engine_.calls(Call::kBegin)); });
  engine_.Unblock(Call::kBegin);
  EXPECT_EQ(begun.get_future().get(), 1);
  EXPECT_THAT(queued.observer->Wait(), IsOk());
}

// What UnloadAdapter promises: when it answers, the memory is free.
TEST_F(RequestSchedulerTest, ReleasedAdapterIsFreeEvenIfItWasMerged) {
  const std::string sha256 = Load("ink");
  EXPECT_THAT(Submit(TaskWith("ink")).observer->Wait(), IsOk());
  EXPECT_EQ(engine_.resident(), (FakeSet{{sha256, 1.0, 1.0}}));

  EXPECT_THAT(UnloadAndRelease("ink"), IsOkAndHolds(testing::Gt(0)));
  EXPECT_EQ(engine_.live_prepared(), 0);
  EXPECT_EQ(engine_.resident(), FakeSet{});
  EXPECT_THAT(scheduler_->resident(), IsEmpty());
}

TEST_F(RequestSchedulerTest, ReleasingAnAdapterLeavesOtherSetsMerged) {
  Load("ink");
  const std::string night = Load("night");
  EXPECT_THAT(Submit(TaskWith("night")).observer->Wait(), IsOk());
  EXPECT_THAT(UnloadAndRelease("ink"), IsOk());
  EXPECT_EQ(engine_.resident(), (FakeSet{{night, 1.0, 1.0}}));
}

TEST_F(RequestSchedulerTest, ForcedUnloadEndsRequestsBeforeTheirNextStep) {
  Load("ink");
  Load("night");
  const Submitted running = SubmitAndBlockIn(Call::kStep, TaskWith("ink"));
  const Submitted waiting = Submit(TaskWith("ink"));
  std::unique_ptr<GenerationTask> late = TaskWith("ink");
  const Submitted other = Submit(TaskWith("night"));
  store_->Unload("ink", UnloadMode::kForce, [](const auto&) {});
  EXPECT_THAT(Submit(std::move(late)).accepted,
              HasReason(ErrorReason::kAdminCancelled));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(running.observer->Wait(),
              HasReason(ErrorReason::kAdminCancelled));
  EXPECT_THAT(waiting.observer->Wait(),
              HasReason(ErrorReason::kAdminCancelled));
  EXPECT_THAT(other.observer->Wait(), IsOk());
  EXPECT_EQ(engine_.begun().size(), 2u);
}

TEST_F(RequestSchedulerTest, StopAdmittingLetsTheAcceptedOnesFinish) {
  const Submitted running = SubmitAndBlockIn(Call::kStep, Task());
  EXPECT_EQ(scheduler_->load().unfinished, 1);
  scheduler_->StopAdmitting();
  EXPECT_THAT(Submit(Task()).accepted, HasReason(ErrorReason::kDraining));
  EXPECT_EQ(scheduler_->load().unfinished, 1);
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(running.observer->Wait(), IsOk());
  scheduler_->Drain(absl::InfiniteDuration());
  EXPECT_EQ(scheduler_->load().unfinished, 0);
}

TEST_F(RequestSchedulerTest, DrainRefusesNewRequestsAndFinishesAcceptedOnes) {
  const Submitted running = SubmitAndBlockIn(Call::kBegin, Task());
  const Submitted waiting = Submit(Task());
  std::thread drain([this] { scheduler_->Drain(absl::InfiniteDuration()); });
  Submitted refused;
  do {
    refused = Submit(Task());  // queued until Drain has begun
    refused.cancelled->store(true);
  } while (refused.accepted.code() != absl::StatusCode::kUnavailable ||
           GetErrorReason(refused.accepted) != ErrorReason::kDraining);
  EXPECT_TRUE(GetRetryDelay(refused.accepted).has_value());
  engine_.Unblock(Call::kBegin);
  drain.join();
  EXPECT_TRUE(running.observer->done());
  EXPECT_THAT(running.observer->Wait(), IsOk());
  EXPECT_THAT(waiting.observer->Wait(), IsOk());
}

TEST_F(RequestSchedulerTest, DrainWithoutPatienceCancelsWhatIsLeft) {
  const Submitted running = SubmitAndBlockIn(Call::kStep, Task());
  const Submitted waiting = Submit(Task());
  std::thread drain([this] { scheduler_->Drain(absl::ZeroDuration()); });
  EXPECT_THAT(waiting.observer->Wait(),
              HasReason(ErrorReason::kAdminCancelled));
  engine_.Unblock(Call::kStep);
  drain.join();
  EXPECT_THAT(running.observer->Wait(),
              HasReason(ErrorReason::kAdminCancelled));
}

TEST_F(RequestSchedulerTest, DestructionEndsEverything) {
  const Submitted running = SubmitAndBlockIn(Call::kStep, Task());
  const Submitted waiting = Submit(Task());
  std::thread destroy([this] { scheduler_.reset(); });
  EXPECT_THAT(waiting.observer->Wait(),
              HasReason(ErrorReason::kAdminCancelled));
  engine_.Unblock(Call::kStep);
  destroy.join();
  EXPECT_TRUE(running.observer->done());
}

// What was accepted ends, and the observer of the process hears of it.
TEST_F(SchedulerFixture, ALostDeviceEndsEverything) {
  std::vector<absl::Status> lost;
  Start({.batching = false, .on_device_lost = [&](const absl::Status& status) {
           lost.push_back(status);
         }});
  const Submitted running = SubmitAndBlockIn(Call::kStep, Task(1));
  const Submitted waiting = Submit(Task(2));
  engine_.Fail(Call::kStep, DeviceLostError("illegal address"));
  engine_.Unblock(Call::kStep);
  EXPECT_TRUE(IsDeviceLost(running.observer->Wait()));
  EXPECT_THAT(waiting.observer->Wait(), HasReason(ErrorReason::kDraining));
  EXPECT_THAT(Submit(Task(3)).accepted, HasReason(ErrorReason::kDraining));
  scheduler_.reset();
  EXPECT_THAT(lost, SizeIs(1));
}

// Not only a request may find it.
TEST_F(SchedulerFixture, AnIdleSchedulerNoticesThatTheDeviceIsLost) {
  std::promise<absl::Status> lost;
  Start({.on_device_lost = [&](const absl::Status& status) {
    lost.set_value(status);
  }});
  engine_.Fail(Call::kVerify, DeviceLostError("illegal address"));
  std::promise<absl::Status> verified;
  scheduler_->VerifyBaseWeights(
      /*repair=*/false,
      [&](const auto& report) { verified.set_value(report.status()); });
  EXPECT_TRUE(IsDeviceLost(verified.get_future().get()));
  EXPECT_TRUE(IsDeviceLost(lost.get_future().get()));
  EXPECT_FALSE(scheduler_->admitting());
}

// Each stage of a request, one after the other, runs out of memory until what
// need not be there has gone.
TEST_F(SchedulerFixture, WhatNeedNotBeOnTheDeviceGivesWayToAStage) {
  const absl::Status full = Error(ErrorReason::kGpuOutOfMemory, "full");
  constexpr Call kStages[] = {Call::kSwitch, Call::kBegin, Call::kStep,
                              Call::kPreview, Call::kFinish};
  int asked = 0;
  Start({.make_room = [&] {
    // The second of two is enough.
    if (++asked % 2 == 0) {
      for (const Call stage : kStages) engine_.Fail(stage, absl::OkStatus());
    }
    return true;
  }});
  for (const Call stage : kStages) {
    engine_.Fail(stage, full);
    std::unique_ptr<GenerationTask> task = Task();
    task->preview_interval = 1;
    EXPECT_THAT(Submit(std::move(task)).observer->Wait(), IsOk());
  }
  scheduler_.reset();
  EXPECT_EQ(asked, 10);
}

// The others have made it.
TEST_F(SchedulerFixture, AStepThatFailsForOneImageIsNotMadeAgain) {
  Start({.make_room = [] { return true; }});
  engine_.FailSeed(2, /*step=*/0, Error(ErrorReason::kGpuOutOfMemory, "full"));
  HoldDevice();
  const Submitted first = Submit(Task(1));
  const Submitted second = Submit(Task(2));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), HasReason(ErrorReason::kGpuOutOfMemory));
  EXPECT_EQ(engine_.calls(Call::kStep), 2);
}

TEST_F(SchedulerFixture, AStageThatStaysOutOfMemoryFails) {
  int left = 3;
  Start({.make_room = [&] { return left-- > 0; }});
  engine_.Fail(Call::kBegin, Error(ErrorReason::kGpuOutOfMemory, "full"));
  EXPECT_THAT(Submit(Task()).observer->Wait(),
              HasReason(ErrorReason::kGpuOutOfMemory));
  scheduler_.reset();
  EXPECT_EQ(left, -1);
}

}  // namespace
}  // namespace graft
