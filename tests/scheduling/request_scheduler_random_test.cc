#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/scheduling/scheduler_fixture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

constexpr int kRequests = 3000;
constexpr uint64_t kBadSeeds = 1'000'000;  // from here on, steps fail

// One random request and all that may become of it.
struct Expectation {
  Submitted submitted;
  std::map<int, std::string> images;
  bool has_deadline = false;
  bool is_bad = false;
  bool is_cancelled = false;
};

// Thousands of requests of all kinds, with cancels, deadlines and failures in
// between: each ends once, in one of the ways that it may, and whoever gets an
// image gets the right one.
class RequestSchedulerRandomTest : public SchedulerFixture,
                                   public testing::WithParamInterface<int> {
 protected:
  RequestSchedulerRandomTest() : random_(static_cast<uint64_t>(GetParam())) {
    for (int i = 0; i < 6; ++i) Load(absl::StrCat("a", i));
    engine_.OnCall(Call::kStep,
                   [this] { clock_.Advance(absl::Milliseconds(1)); });
    engine_.FailBatchesAbove(3, Error(ErrorReason::kGpuOutOfMemory, "full"));
  }

  int Random(int below) { return static_cast<int>(random_() % below); }

  std::unique_ptr<GenerationTask> RandomTask(uint64_t seed) {
    std::unique_ptr<GenerationTask> task = Task(seed);
    task->params.width = Random(5) == 0 ? 32 : 16;
    task->params.steps = Random(10) == 0 ? 30 : 1 + Random(6);
    task->params.prompt = absl::StrCat("prompt ", Random(3));
    task->count = Random(8) == 0 ? 1 + Random(4) : 1;
    task->tenant = absl::StrCat("tenant ", Random(3));
    if (Random(4) == 0) task->priority = Priority::kBatch;
    const int first = Random(6);
    for (int i = 0; i < Random(3); ++i) {
      RequestedAdapter adapter{
          *store_->Acquire(absl::StrCat("a", (first + i) % 6)),
          0.5 * (1 + Random(2)), 1.0};
      if (Random(4) == 0) {
        adapter.schedule = {{.from = 0, .to = 0.5, .weight = 0.5},
                            {.from = 0.5, .to = 0.8, .weight = 2}};
      }
      task->adapters.push_back(std::move(adapter));
    }
    return task;
  }

  Expectation SubmitRandom(uint64_t seed) {
    Expectation expected;
    if (Random(50) == 0) {
      expected.is_bad = true;
      seed += kBadSeeds;
      engine_.FailSeed(seed, 0,
                       Error(ErrorReason::kNonFiniteLatents, "step 0"));
    }
    std::unique_ptr<GenerationTask> task = RandomTask(seed);
    if (Random(10) == 0) {
      expected.has_deadline = true;
      task->deadline = clock_.Now() + absl::Milliseconds(1 + Random(300));
    }
    expected.images = ExpectedImages(*task);
    expected.submitted = Submit(std::move(task));
    return expected;
  }

  static void Check(const Expectation& expected) {
    const RecordingObserver& observer = *expected.submitted.observer;
    if (!expected.submitted.accepted.ok()) {
      EXPECT_THAT(observer.events(), testing::IsEmpty());
      return;
    }
    ASSERT_TRUE(observer.done());
    const absl::Status status = expected.submitted.observer->Wait();
    if (status.ok()) {
      EXPECT_FALSE(expected.is_bad);
      EXPECT_EQ(observer.images(), expected.images);
      return;
    }
    const auto reason = GetErrorReason(status);
    EXPECT_TRUE(
        (expected.is_bad && reason == ErrorReason::kNonFiniteLatents) ||
        (expected.is_cancelled && reason == ErrorReason::kClientCancelled) ||
        (expected.has_deadline && (reason == ErrorReason::kDeadlineInQueue ||
                                   reason == ErrorReason::kDeadlineRunning)))
        << status;
    for (const auto& [index, png] : observer.images()) {
      EXPECT_EQ(png, expected.images.at(index));
    }
  }

  std::mt19937_64 random_;
};

TEST_P(RequestSchedulerRandomTest, EveryRequestEndsAsItShould) {
  Start({.batching = GetParam() % 2 == 0, .max_queued_requests = 64});
  HoldDevice();  // until the queue is full for the first time
  std::vector<Expectation> requests;
  int refused = 0;
  int completed = 0;
  for (uint64_t i = 0; i < kRequests; ++i) {
    requests.push_back(SubmitRandom(i * 10));
    const absl::Status& accepted = requests.back().submitted.accepted;
    if (GetErrorReason(accepted) == ErrorReason::kQueueFull) {
      // Wait for the oldest that is not done, as a client would.
      if (++refused == 1) ReleaseDevice();
      for (const Expectation& request : requests) {
        if (request.submitted.accepted.ok() &&
            !request.submitted.observer->done()) {
          (void)request.submitted.observer->Wait();
          break;
        }
      }
    }
    if (Random(20) == 0) {
      Expectation& victim =
          requests[requests.size() - 1 -
                   static_cast<size_t>(Random(
                       std::min<int>(30, static_cast<int>(requests.size()))))];
      victim.is_cancelled = true;
      victim.submitted.cancelled->store(true);
    }
  }
  scheduler_->Drain(absl::InfiniteDuration());
  for (const Expectation& request : requests) {
    Check(request);
    completed += request.submitted.observer->images().empty() ? 0 : 1;
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(completed, kRequests / 2);
  scheduler_.reset();
  EXPECT_EQ(engine_.live_generations(), 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RequestSchedulerRandomTest,
                         testing::Range(1, 5));

}  // namespace
}  // namespace graft
