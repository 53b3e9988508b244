#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/scheduling/scheduler_fixture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Le;
using testing::SizeIs;

// Requests that share steps.
class RequestSchedulerBatchingTest : public SchedulerFixture {
 protected:
  std::unique_ptr<GenerationTask> TaskOf(uint64_t seed, int steps) {
    std::unique_ptr<GenerationTask> task = Task(seed);
    task->params.steps = steps;
    return task;
  }

  std::vector<size_t> BatchSizes() const {
    std::vector<size_t> sizes;
    for (const auto& batch : engine_.batches()) sizes.push_back(batch.size());
    return sizes;
  }
};

TEST_F(RequestSchedulerBatchingTest, RequestsJoinAndLeaveBetweenSteps) {
  Start({});
  engine_.Block(Call::kStep);
  const Submitted first = SubmitAndBlockIn(Call::kStep, TaskOf(1, 5));
  // Different in all but adapters and size.
  std::unique_ptr<GenerationTask> other = TaskOf(2, 2);
  other->params.prompt = "a moon";
  other->params.sampler = "euler_a";
  other->params.guidance_scale = 1;
  const Submitted second = Submit(std::move(other));
  LetOneStepThrough();
  LetOneStepThrough();
  const Submitted third = Submit(TaskOf(3, 1));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), IsOk());
  EXPECT_THAT(third.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.batches(),
              ElementsAre(ElementsAre(1), ElementsAre(1, 2), ElementsAre(1, 2),
                          ElementsAre(1, 3), ElementsAre(1)));
}

TEST_F(RequestSchedulerBatchingTest, ImagesAreTheSameAsAlone) {
  Start({});
  Load("ink");
  HoldDevice();
  std::vector<Submitted> requests;
  std::vector<std::map<int, std::string>> expected;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    auto task = TaskWith("ink", seed % 2 == 0 ? 0.5 : 1.0, seed);
    task->params.steps = static_cast<int>(2 + seed % 3);
    expected.push_back(ExpectedImages(*task));
    requests.push_back(Submit(std::move(task)));
  }
  ReleaseDevice();
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_THAT(requests[i].observer->Wait(), IsOk());
    EXPECT_EQ(requests[i].observer->images(), expected[i]) << i;
  }
  EXPECT_THAT(engine_.switches(), SizeIs(2));  // three share each set
}

TEST_F(RequestSchedulerBatchingTest, OtherSizesAndSetsDoNotShare) {
  Start({});
  Load("ink");
  HoldDevice();
  std::unique_ptr<GenerationTask> wide = Task(2);
  wide->params.width = 32;
  const Submitted requests[] = {Submit(Task(1)), Submit(std::move(wide)),
                                Submit(TaskWith("ink", 1, 3)),
                                Submit(TaskWith("ink", 0.5, 4))};
  ReleaseDevice();
  for (const Submitted& request : requests) {
    EXPECT_THAT(request.observer->Wait(), IsOk());
  }
  EXPECT_THAT(engine_.batches(), Each(SizeIs(1)));
}

TEST_F(RequestSchedulerBatchingTest, NoBatchIsLargerThanAllowed) {
  Start({.max_batch_size = 3});
  HoldDevice();
  std::vector<Submitted> requests;
  for (uint64_t seed = 1; seed <= 7; ++seed) {
    requests.push_back(Submit(Task(seed)));
  }
  ReleaseDevice();
  for (const Submitted& request : requests) {
    EXPECT_THAT(request.observer->Wait(), IsOk());
  }
  EXPECT_THAT(BatchSizes(), ElementsAre(3, 3, 3, 3, 1, 1));
}

TEST_F(RequestSchedulerBatchingTest, WithoutBatchingEveryImageIsAlone) {
  Start({.batching = false});
  HoldDevice();
  std::unique_ptr<GenerationTask> two = Task(1);
  two->count = 2;
  const auto expected = ExpectedImages(*two);
  const Submitted first = Submit(std::move(two));
  const Submitted second = Submit(Task(5));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.batches(),
              ElementsAre(ElementsAre(1), ElementsAre(1), ElementsAre(2),
                          ElementsAre(2), ElementsAre(5), ElementsAre(5)));
  EXPECT_EQ(first.observer->images(), expected);
}

TEST_F(RequestSchedulerBatchingTest, ImagesOfARequestShareStepsAndStayInOrder) {
  Start({});
  std::unique_ptr<GenerationTask> three = Task(5);
  three->count = 3;
  const auto expected = ExpectedImages(*three);
  const Submitted request = Submit(std::move(three));
  EXPECT_THAT(request.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.batches(),
              ElementsAre(ElementsAre(5, 6, 7), ElementsAre(5, 6, 7)));
  EXPECT_EQ(request.observer->images(), expected);
  EXPECT_THAT(request.observer->summary().seeds, ElementsAre(5, 6, 7));
  std::vector<std::string> images;
  for (const std::string& event : request.observer->events()) {
    if (event.rfind("image", 0) == 0) images.push_back(event);
  }
  EXPECT_THAT(images, ElementsAre("image 0", "image 1", "image 2"));
}

TEST_F(RequestSchedulerBatchingTest, ABadImageFailsItsOwnRequestOnly) {
  Start({});
  engine_.FailSeed(2, 1, Error(ErrorReason::kNonFiniteLatents, "step 1"));
  HoldDevice();
  const Submitted good = Submit(TaskOf(1, 3));
  const Submitted bad = Submit(TaskOf(2, 3));
  ReleaseDevice();
  EXPECT_THAT(bad.observer->Wait(), HasReason(ErrorReason::kNonFiniteLatents));
  EXPECT_THAT(good.observer->Wait(), IsOk());
  EXPECT_THAT(
      engine_.batches(),
      ElementsAre(ElementsAre(1, 2), ElementsAre(1, 2), ElementsAre(1)));
  EXPECT_EQ(engine_.live_generations(), 0);
}

TEST_F(RequestSchedulerBatchingTest, ABadImageEndsTheOthersOfItsRequest) {
  Start({});
  engine_.FailSeed(6, 0, Error(ErrorReason::kNonFiniteLatents, "step 0"));
  std::unique_ptr<GenerationTask> three = Task(5);
  three->count = 3;
  const Submitted request = Submit(std::move(three));
  EXPECT_THAT(request.observer->Wait(),
              HasReason(ErrorReason::kNonFiniteLatents));
  EXPECT_THAT(request.observer->images(), IsEmpty());
  EXPECT_EQ(engine_.calls(Call::kStep), 1);
}

// A batch that the device cannot hold costs no request its image.
TEST_F(RequestSchedulerBatchingTest, ABatchThatDoesNotFitIsRunOneByOne) {
  Start({});
  engine_.FailBatchesAbove(2, Error(ErrorReason::kGpuOutOfMemory, "full"));
  HoldDevice();
  std::vector<Submitted> requests;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    requests.push_back(Submit(TaskOf(seed, 3)));
  }
  ReleaseDevice();
  for (const Submitted& request : requests) {
    EXPECT_THAT(request.observer->Wait(), IsOk());
  }
  EXPECT_THAT(BatchSizes(), Each(Le(2u)));
  // Tried in vain once: from then on batches are half as large.
  EXPECT_EQ(engine_.calls(Call::kStep),
            static_cast<int>(BatchSizes().size()) + 1);
}

TEST_F(RequestSchedulerBatchingTest, LargeBatchesAreTriedAgainAfterIdleness) {
  Start({});
  engine_.FailBatchesAbove(1, Error(ErrorReason::kGpuOutOfMemory, "full"));
  std::unique_ptr<GenerationTask> first = Task(1);
  first->count = 4;
  EXPECT_THAT(Submit(std::move(first)).observer->Wait(), IsOk());
  engine_.FailBatchesAbove(8, absl::OkStatus());
  HoldDevice();  // idle before this
  std::unique_ptr<GenerationTask> second = Task(10);
  second->count = 4;
  const Submitted request = Submit(std::move(second));
  ReleaseDevice();
  EXPECT_THAT(request.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.batches().back(), ElementsAre(10, 11, 12, 13));
}

TEST_F(RequestSchedulerBatchingTest, AnyErrorOfABatchIsTriedAlone) {
  Start({});
  engine_.FailBatchesAbove(1, Error(ErrorReason::kInternal, "odd"));
  HoldDevice();
  const Submitted first = Submit(TaskOf(1, 2));
  const Submitted second = Submit(TaskOf(2, 2));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.batches(), Each(SizeIs(1)));
}

TEST_F(RequestSchedulerBatchingTest, AnErrorOfAllFailsAll) {
  Start({});
  engine_.Fail(Call::kStep, Error(ErrorReason::kInternal, "broken"));
  HoldDevice();
  const Submitted first = Submit(Task(1));
  const Submitted second = Submit(Task(2));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(), HasReason(ErrorReason::kInternal));
  EXPECT_THAT(second.observer->Wait(), HasReason(ErrorReason::kInternal));
  EXPECT_EQ(engine_.calls(Call::kStep), 3);  // together, then each
}

TEST_F(RequestSchedulerBatchingTest, ACancelledMemberIsGoneAtTheNextStep) {
  Start({});
  HoldDevice();
  engine_.Block(Call::kStep);
  const Submitted first = Submit(TaskOf(1, 3));
  const Submitted second = Submit(TaskOf(2, 3));
  ReleaseDevice();
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kStep));
  second.cancelled->store(true);
  LetOneStepThrough();
  EXPECT_THAT(second.observer->Wait(),
              HasReason(ErrorReason::kClientCancelled));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.batches(),
              ElementsAre(ElementsAre(1, 2), ElementsAre(1), ElementsAre(1)));
}

TEST_F(RequestSchedulerBatchingTest, AFailedSwitchFailsThoseWhoNeedTheSet) {
  Start({});
  Load("ink");
  HoldDevice();
  engine_.Fail(Call::kSwitch, Error(ErrorReason::kAdapterNonFinite, "inf"));
  const Submitted first = Submit(TaskWith("ink", 1, 1));
  const Submitted second = Submit(TaskWith("ink", 1, 2));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(),
              HasReason(ErrorReason::kAdapterNonFinite));
  EXPECT_THAT(second.observer->Wait(),
              HasReason(ErrorReason::kAdapterNonFinite));
  EXPECT_EQ(engine_.calls(Call::kSwitch), 1);
  EXPECT_EQ(engine_.calls(Call::kBegin), 0);
}

// Each request tells how long it was on the device, alone or not.
TEST_F(RequestSchedulerBatchingTest, ASharedStepCountsForEach) {
  Start({});
  engine_.OnCall(Call::kStep,
                 [this] { clock_.Advance(absl::Milliseconds(10)); });
  HoldDevice();
  std::unique_ptr<GenerationTask> two = TaskOf(1, 3);
  two->count = 2;
  const Submitted first = Submit(std::move(two));
  const Submitted second = Submit(TaskOf(3, 2));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), IsOk());
  EXPECT_EQ(first.observer->summary().timings.denoise, absl::Milliseconds(30));
  EXPECT_EQ(second.observer->summary().timings.denoise, absl::Milliseconds(20));
}

TEST_F(RequestSchedulerBatchingTest, EveryStepIsReported) {
  std::vector<BatchReport> reports;
  Start({.on_step = [&](const BatchReport& report) {
    reports.push_back(report);  // on the owner thread alone
  }});
  Load("ink");
  engine_.OnCall(Call::kStep,
                 [this] { clock_.Advance(absl::Milliseconds(7)); });
  std::unique_ptr<GenerationTask> task = TaskWith("ink");
  task->count = 2;
  EXPECT_THAT(Submit(std::move(task)).observer->Wait(), IsOk());
  scheduler_.reset();
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_TRUE(reports[0].adapter_switch.changed);
  EXPECT_FALSE(reports[1].adapter_switch.changed);
  for (const BatchReport& report : reports) {
    EXPECT_EQ(report.batch_size, 2);
    EXPECT_TRUE(report.adapters_merged);
    EXPECT_EQ(report.denoise, absl::Milliseconds(7));
    EXPECT_EQ(report.work_done, 2 * 16 * 8);
  }
}

}  // namespace
}  // namespace graft
