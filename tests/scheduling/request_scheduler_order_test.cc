#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/scheduling/scheduler_fixture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr absl::Duration kStepTime = absl::Milliseconds(10);

// Who comes when, and who is refused. A step takes 10 ms.
class RequestSchedulerOrderTest : public SchedulerFixture {
 protected:
  RequestSchedulerOrderTest() {
    engine_.OnCall(Call::kStep, [this] { clock_.Advance(kStepTime); });
    Load("ink");
  }

  std::unique_ptr<GenerationTask> TaskOf(uint64_t seed, int steps,
                                         const std::string& adapter = "") {
    std::unique_ptr<GenerationTask> task =
        adapter.empty() ? Task(seed) : TaskWith(adapter, 1, seed);
    task->params.steps = steps;
    return task;
  }

  std::unique_ptr<GenerationTask> BatchTask(uint64_t seed, int steps,
                                            const std::string& adapter = "") {
    std::unique_ptr<GenerationTask> task = TaskOf(seed, steps, adapter);
    task->priority = Priority::kBatch;
    return task;
  }

  // The seeds of the steps, one image each.
  std::vector<uint64_t> Steps() const {
    std::vector<uint64_t> steps;
    for (const auto& batch : engine_.batches()) {
      EXPECT_THAT(batch, SizeIs(1));
      steps.push_back(batch.front());
    }
    return steps;
  }

  // Teaches the scheduler how fast the device is.
  void MeasureRate() {
    EXPECT_THAT(Submit(TaskOf(0, 5)).observer->Wait(), IsOk());
  }
};

TEST_F(RequestSchedulerOrderTest, InteractiveStartsWithinTwoStepsOfABatchJob) {
  for (const std::string adapter : {"", "ink"}) {  // shares the batch, or not
    Start({});
    const size_t before = engine_.batches().size();
    const Submitted job = SubmitAndBlockIn(Call::kStep, BatchTask(1, 50));
    for (int i = 0; i < 20; ++i) LetOneStepThrough();
    const Submitted urgent = Submit(TaskOf(2, 3, adapter));
    engine_.Unblock(Call::kStep);
    EXPECT_THAT(urgent.observer->Wait(), IsOk());
    EXPECT_THAT(job.observer->Wait(), IsOk());
    const auto batches = engine_.batches();
    size_t first = before;
    while (batches[first].front() != 2) ++first;
    EXPECT_LE(first - before, 20u + 2);
    scheduler_.reset();
  }
}

TEST_F(RequestSchedulerOrderTest, WhoYieldedGoesOnAndItsImageDoesNotShowIt) {
  Start({});
  auto job_task = BatchTask(1, 5, "ink");
  auto urgent_task = TaskOf(2, 2);
  const auto job_images = ExpectedImages(*job_task);
  const auto urgent_images = ExpectedImages(*urgent_task);
  const Submitted job = SubmitAndBlockIn(Call::kStep, std::move(job_task));
  LetOneStepThrough();
  const Submitted urgent = Submit(std::move(urgent_task));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(job.observer->Wait(), IsOk());
  EXPECT_THAT(urgent.observer->Wait(), IsOk());
  EXPECT_THAT(Steps(), ElementsAre(1, 1, 2, 2, 1, 1, 1));
  EXPECT_EQ(job.observer->images(), job_images);
  EXPECT_EQ(urgent.observer->images(), urgent_images);
  // Both ways: to "ink", to the base, and back.
  EXPECT_EQ(job.observer->summary().timings.adapter_switch,
            absl::Milliseconds(2));
  EXPECT_EQ(urgent.observer->summary().timings.adapter_switch,
            absl::Milliseconds(1));
  EXPECT_EQ(engine_.calls(Call::kBegin), 2);
}

TEST_F(RequestSchedulerOrderTest, LongJobsYieldToShortOnes) {
  Start({});
  const Submitted job = SubmitAndBlockIn(Call::kStep, TaskOf(1, 12));
  LetOneStepThrough();
  const Submitted quick = Submit(TaskOf(2, 2, "ink"));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(job.observer->Wait(), IsOk());
  EXPECT_THAT(quick.observer->Wait(), IsOk());
  EXPECT_THAT(Steps(), ElementsAre(1, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1));
}

TEST_F(RequestSchedulerOrderTest, EqualJobsAreNotSliced) {
  Start({});
  HoldDevice();
  const Submitted requests[] = {Submit(TaskOf(1, 3)),
                                Submit(TaskOf(2, 3, "ink")),
                                Submit(TaskOf(3, 2, "ink"))};
  ReleaseDevice();
  for (const Submitted& request : requests) {
    EXPECT_THAT(request.observer->Wait(), IsOk());
  }
  EXPECT_THAT(
      engine_.batches(),
      ElementsAre(ElementsAre(1), ElementsAre(1), ElementsAre(1),
                  ElementsAre(2, 3), ElementsAre(2, 3), ElementsAre(2)));
}

TEST_F(RequestSchedulerOrderTest, ATenantsFloodDoesNotHoldUpTheOthers) {
  Start({.batching = false});
  HoldDevice();
  std::vector<Submitted> requests;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    requests.push_back(Submit(TaskOf(seed, 1)));
  }
  for (uint64_t seed = 11; seed <= 12; ++seed) {
    std::unique_ptr<GenerationTask> task = TaskOf(seed, 1);
    task->tenant = "other";
    requests.push_back(Submit(std::move(task)));
  }
  ReleaseDevice();
  for (const Submitted& request : requests) {
    EXPECT_THAT(request.observer->Wait(), IsOk());
  }
  EXPECT_THAT(Steps(), ElementsAre(1, 11, 2, 12, 3, 4, 5, 6));
}

TEST_F(RequestSchedulerOrderTest, ATenantPaysForWhatItUsed) {
  Start({.batching = false});
  const Submitted job = SubmitAndBlockIn(Call::kStep, TaskOf(1, 10));
  std::unique_ptr<GenerationTask> other = TaskOf(11, 3);
  other->tenant = "other";
  const Submitted second = Submit(std::move(other));
  const Submitted first = Submit(TaskOf(2, 3));
  job.cancelled->store(true);
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), IsOk());
  EXPECT_THAT(Steps(), ElementsAre(1, 2, 2, 2, 11, 11, 11));
}

TEST_F(RequestSchedulerOrderTest, ACancelledJobThatYieldsEndsAtOnce) {
  Start({});
  const Submitted job = SubmitAndBlockIn(Call::kStep, BatchTask(1, 50));
  const Submitted urgent = Submit(TaskOf(2, 3, "ink"));
  LetOneStepThrough();  // now in the first step of the urgent one
  job.cancelled->store(true);
  LetOneStepThrough();
  EXPECT_THAT(job.observer->Wait(), HasReason(ErrorReason::kClientCancelled));
  EXPECT_FALSE(urgent.observer->done());
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(urgent.observer->Wait(), IsOk());
}

// ---- What a client is told, and when it is refused ----

TEST_F(RequestSchedulerOrderTest, TellsPositionAndExpectedWait) {
  Start({});
  MeasureRate();
  HoldDevice();
  const Submitted first = Submit(TaskOf(1, 5));
  const Submitted second = Submit(TaskOf(2, 3, "ink"));
  EXPECT_EQ(first.observer->events().front(), "queued 0");
  EXPECT_EQ(first.observer->estimated_wait(), absl::ZeroDuration());
  EXPECT_EQ(second.observer->events().front(), "queued 1");
  EXPECT_EQ(second.observer->estimated_wait(), 5 * kStepTime);
  // Batch jobs would yield to it.
  const Submitted job = Submit(BatchTask(3, 100));
  const Submitted third = Submit(TaskOf(4, 3, "ink"));
  EXPECT_EQ(third.observer->events().front(), "queued 2");
  EXPECT_EQ(third.observer->estimated_wait(), 8 * kStepTime);
  ReleaseDevice();
  EXPECT_THAT(job.observer->Wait(), IsOk());
}

// With 50 waiting, once a second: two requests and a half later.
TEST_F(RequestSchedulerOrderTest, ALongQueueHearsOfItsPlacesLessOften) {
  constexpr int kRequests = 60;
  Start({.batching = false});
  HoldDevice();
  std::vector<Submitted> requests;
  for (uint64_t seed = 1; seed <= kRequests; ++seed) {
    requests.push_back(Submit(TaskOf(seed, 40)));
  }
  ReleaseDevice();
  const RecordingObserver& last = *requests.back().observer;
  EXPECT_THAT(requests.back().observer->Wait(), IsOk());
  std::vector<int> places;
  for (const std::string& event : last.events()) {
    absl::string_view place = event;
    int position = 0;
    if (!absl::ConsumePrefix(&place, "queued ")) break;
    ASSERT_TRUE(absl::SimpleAtoi(place, &position));
    places.push_back(position);
  }
  ASSERT_GT(places.size(), 20u);
  EXPECT_EQ(places[0], kRequests - 1);
  for (size_t i = 2; places[i] >= 30; ++i) {
    EXPECT_LE(places[i], places[i - 1] - (places[i] >= 50 ? 2 : 1));
  }
  EXPECT_EQ(places.back(), 1);
}

TEST_F(RequestSchedulerOrderTest, RefusesADeadlineThatCannotBeKept) {
  Start({});
  MeasureRate();
  HoldDevice();
  const Submitted first = Submit(TaskOf(1, 5));
  std::unique_ptr<GenerationTask> hopeless = TaskOf(2, 3, "ink");
  hopeless->deadline = clock_.Now() + 5 * kStepTime - absl::Nanoseconds(1);
  std::unique_ptr<GenerationTask> possible = TaskOf(3, 3, "ink");
  possible->deadline = clock_.Now() + 5 * kStepTime;
  const Submitted refused = Submit(std::move(hopeless));
  EXPECT_THAT(refused.accepted, HasReason(ErrorReason::kDeadlineInQueue));
  EXPECT_THAT(refused.observer->events(), IsEmpty());
  EXPECT_THAT(Submit(std::move(possible)).accepted, IsOk());
  ReleaseDevice();
}

// It joins the batch that runs, however long that takes.
TEST_F(RequestSchedulerOrderTest, WhoBeginsAtOnceIsNotRefused) {
  Start({.max_batch_size = 2});
  MeasureRate();
  const Submitted job = SubmitAndBlockIn(Call::kStep, TaskOf(1, 50, "ink"));
  const auto submit = [this](const std::string& adapter) {
    std::unique_ptr<GenerationTask> task = TaskOf(2, 30, adapter);
    task->deadline = clock_.Now() + 40 * kStepTime;
    return Submit(std::move(task));
  };
  EXPECT_THAT(submit("").accepted, HasReason(ErrorReason::kDeadlineInQueue));
  const Submitted joining = submit("ink");
  EXPECT_THAT(joining.accepted, IsOk());
  EXPECT_EQ(joining.observer->events().front(), "queued 1");
  EXPECT_EQ(joining.observer->estimated_wait(), absl::ZeroDuration());
  // The batch is full.
  EXPECT_THAT(submit("ink").accepted, HasReason(ErrorReason::kDeadlineInQueue));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(joining.observer->Wait(), IsOk());
  EXPECT_THAT(job.observer->Wait(), IsOk());
}

TEST_F(RequestSchedulerOrderTest, AFullQueueTellsWhenToComeBack) {
  Start({.max_queued_requests = 2});
  MeasureRate();
  HoldDevice();
  EXPECT_THAT(Submit(TaskOf(1, 5)).accepted, IsOk());
  EXPECT_THAT(Submit(TaskOf(2, 7)).accepted, IsOk());
  const absl::Status refused = Submit(TaskOf(3, 1)).accepted;
  EXPECT_THAT(refused, HasReason(ErrorReason::kQueueFull));
  EXPECT_EQ(GetRetryDelay(refused), 12 * kStepTime);
  ReleaseDevice();
}

TEST_F(RequestSchedulerOrderTest, EachTenantHasAPlaceOfItsOwn) {
  Start({.max_queued_requests = 2});
  HoldDevice();
  const auto submit = [this](const std::string& tenant) {
    std::unique_ptr<GenerationTask> task = TaskOf(1, 5);
    task->tenant = tenant;
    return Submit(std::move(task)).accepted;
  };
  EXPECT_THAT(submit("flood"), IsOk());
  EXPECT_THAT(submit("flood"), IsOk());
  EXPECT_THAT(submit("flood"), HasReason(ErrorReason::kQueueFull));
  EXPECT_THAT(submit("other"), IsOk());
  EXPECT_THAT(submit("other"), HasReason(ErrorReason::kQueueFull));
  EXPECT_THAT(submit("third"), IsOk());
  ReleaseDevice();
}

TEST_F(RequestSchedulerOrderTest, TheQueueIsBoundedInWork) {
  Start({.max_queued_work = 10 * 16 * 8});
  HoldDevice();
  // One alone may be larger.
  EXPECT_THAT(Submit(TaskOf(1, 100)).accepted, IsOk());
  const absl::Status refused = Submit(TaskOf(2, 1)).accepted;
  EXPECT_THAT(refused, HasReason(ErrorReason::kQueueFull));
  EXPECT_EQ(GetRetryDelay(refused), absl::Seconds(1));  // no rate known yet
  ReleaseDevice();
}

TEST_F(RequestSchedulerOrderTest, WorkCountsImagesToo) {
  Start({.max_queued_work = 10 * 16 * 8});
  HoldDevice();
  EXPECT_THAT(Submit(TaskOf(1, 4)).accepted, IsOk());
  std::unique_ptr<GenerationTask> many = TaskOf(2, 2);
  many->count = 4;
  EXPECT_THAT(Submit(std::move(many)).accepted,
              HasReason(ErrorReason::kQueueFull));
  std::unique_ptr<GenerationTask> few = TaskOf(3, 2);
  few->count = 3;
  EXPECT_THAT(Submit(std::move(few)).accepted, IsOk());
  ReleaseDevice();
}

TEST_F(RequestSchedulerOrderTest, LoadTellsWhatThereIsToDo) {
  Start({});
  MeasureRate();
  const Submitted running = SubmitAndBlockIn(Call::kStep, TaskOf(1, 4, "ink"));
  const Submitted waiting = Submit(TaskOf(2, 6));
  const SchedulerLoad load = scheduler_->load();
  EXPECT_EQ(load.running, 1);
  EXPECT_EQ(load.waiting, 1);
  EXPECT_EQ(load.batch_size, 1);
  EXPECT_EQ(load.waiting_work, 6 * 16 * 8);
  EXPECT_EQ(load.backlog, 10 * kStepTime);
  ASSERT_THAT(load.resident, SizeIs(1));
  EXPECT_EQ(load.resident[0].name, "ink");
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(waiting.observer->Wait(), IsOk());
  HoldDevice();  // it is idle by now
  const SchedulerLoad idle = scheduler_->load();
  EXPECT_EQ(idle.running + idle.waiting + idle.batch_size, 0);
  EXPECT_EQ(idle.backlog, absl::ZeroDuration());
  ReleaseDevice();
}

}  // namespace
}  // namespace graft
