#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scheduling/scheduler_fixture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

// Adapters that are merged during a part of the steps.
class RequestSchedulerScheduleTest : public SchedulerFixture {
 protected:
  RequestSchedulerScheduleTest() : sketch_(Load("sketch")), ink_(Load("ink")) {}

  // "sketch" for the first 40 % of five steps, "ink" after them.
  std::unique_ptr<GenerationTask> SketchThenInk(uint64_t seed = 1) {
    std::unique_ptr<GenerationTask> task = Task(seed);
    task->params.steps = 5;
    AddRange(*task, "sketch", {.from = 0, .to = 0.4, .weight = 0.8});
    AddRange(*task, "ink", {.from = 0.4, .to = 1});
    return task;
  }

  void AddRange(GenerationTask& task, const std::string& name,
                const WeightRange& range) {
    task.adapters.push_back({*store_->Acquire(name), 1, 1, {range}});
  }

  const std::string sketch_;
  const std::string ink_;
};

TEST_F(RequestSchedulerScheduleTest, EachStepHasItsOwnSet) {
  Start({});
  auto task = SketchThenInk();
  const auto expected = ExpectedImages(*task);
  const Submitted request = Submit(std::move(task));
  EXPECT_THAT(request.observer->Wait(), IsOk());
  EXPECT_THAT(engine_.switches(),
              ElementsAre(FakeSet{{sketch_, 0.8, 1}}, FakeSet{{ink_, 1, 1}}));
  EXPECT_EQ(request.observer->images(), expected);
  EXPECT_EQ(request.observer->summary().timings.adapter_switch,
            absl::Milliseconds(2));
  const auto adapters = request.observer->summary().adapters;
  ASSERT_THAT(adapters, SizeIs(2));
  EXPECT_THAT(adapters[0].schedule,
              ElementsAre(WeightRange{.from = 0, .to = 0.4, .weight = 0.8}));
  EXPECT_EQ(scheduler_->resident()[0].name, "ink");
}

TEST_F(RequestSchedulerScheduleTest, OutsideOfItsRangesNothingIsMerged) {
  Start({});
  std::unique_ptr<GenerationTask> task = Task();
  task->params.steps = 4;
  AddRange(*task, "ink", {.from = 0.25, .to = 0.5});
  const auto expected = ExpectedImages(*task);
  const Submitted request = Submit(std::move(task));
  EXPECT_THAT(request.observer->Wait(), IsOk());
  EXPECT_EQ(request.observer->images(), expected);
  EXPECT_THAT(engine_.switches(),
              ElementsAre(FakeSet{{ink_, 1, 1}}, FakeSet{}));
}

// The second image begins with the first set again.
TEST_F(RequestSchedulerScheduleTest, EveryImageGoesThroughTheSchedule) {
  for (const bool batching : {true, false}) {
    Start({.batching = batching});
    auto task = SketchThenInk();
    task->count = 3;
    const auto expected = ExpectedImages(*task);
    const Submitted request = Submit(std::move(task));
    EXPECT_THAT(request.observer->Wait(), IsOk());
    EXPECT_EQ(request.observer->images(), expected) << batching;
    scheduler_.reset();
  }
}

TEST_F(RequestSchedulerScheduleTest, RequestsShareTheStepsWithEqualSets) {
  Start({});
  HoldDevice();
  auto scheduled = SketchThenInk(1);
  auto plain = TaskWith("ink", 1, 2);
  plain->params.steps = 5;
  const auto scheduled_images = ExpectedImages(*scheduled);
  const auto plain_images = ExpectedImages(*plain);
  const Submitted first = Submit(std::move(scheduled));
  const Submitted second = Submit(std::move(plain));
  ReleaseDevice();
  EXPECT_THAT(first.observer->Wait(), IsOk());
  EXPECT_THAT(second.observer->Wait(), IsOk());
  EXPECT_EQ(first.observer->images(), scheduled_images);
  EXPECT_EQ(second.observer->images(), plain_images);
  EXPECT_THAT(engine_.batches(),
              ElementsAre(ElementsAre(1), ElementsAre(1), ElementsAre(1, 2),
                          ElementsAre(1, 2), ElementsAre(1, 2), ElementsAre(2),
                          ElementsAre(2)));
}

}  // namespace
}  // namespace graft
