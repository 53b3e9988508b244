#include "server/common/executor.h"

#include <sched.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

TEST(ThreadPoolExecutorTest, RunsEachJobOnce) {
  constexpr int kJobs = 1000;
  std::vector<std::atomic<int>> runs(kJobs);
  absl::BlockingCounter done(kJobs);
  ThreadPoolExecutor executor(4);
  for (std::atomic<int>& count : runs) {
    executor.Run([&count, &done] {
      ++count;
      done.DecrementCount();
    });
  }
  done.Wait();
  for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
}

TEST(ThreadPoolExecutorTest, JobsRunAwayFromTheCaller) {
  std::promise<std::thread::id> job_thread;
  ThreadPoolExecutor executor(1);
  executor.Run([&] { job_thread.set_value(std::this_thread::get_id()); });
  EXPECT_NE(job_thread.get_future().get(), std::this_thread::get_id());
}

// Each job waits for the other: with fewer threads this would never end.
TEST(ThreadPoolExecutorTest, PoliteThreadsTakeNoCoreFromOthers) {
  const auto policy_of = [](Wakeup wakeup) {
    std::promise<int> policy;
    ThreadPoolExecutor executor(1, wakeup);
    executor.Run([&policy] { policy.set_value(sched_getscheduler(0)); });
    return policy.get_future().get();
  };
  EXPECT_EQ(policy_of(Wakeup::kPolitely), SCHED_BATCH);
  EXPECT_EQ(policy_of(Wakeup::kAtOnce), SCHED_OTHER);
}

TEST(ThreadPoolExecutorTest, UsesAllItsThreads) {
  auto* const barrier = new absl::Barrier(3);
  const auto meet = [barrier] {
    if (barrier->Block()) delete barrier;
  };
  ThreadPoolExecutor executor(2);
  executor.Run(meet);
  executor.Run(meet);
  meet();
}

TEST(ThreadPoolExecutorTest, IsIdleWhenTheLastJobIsOver) {
  ThreadPoolExecutor executor(2);
  EXPECT_TRUE(executor.WaitUntilIdle(absl::ZeroDuration()));
  absl::Notification go;
  std::atomic<int> runs = 0;
  for (int i = 0; i < 3; ++i) {
    executor.Run([&] {
      go.WaitForNotification();
      ++runs;
    });
  }
  EXPECT_FALSE(executor.WaitUntilIdle(absl::ZeroDuration()));
  go.Notify();
  EXPECT_TRUE(executor.WaitUntilIdle(absl::InfiniteDuration()));
  EXPECT_EQ(runs, 3);
}

TEST(ThreadPoolExecutorTest, DestructorRunsWhatIsQueued) {
  std::atomic<int> runs = 0;
  absl::Notification go;
  auto executor = std::make_unique<ThreadPoolExecutor>(1);
  executor->Run([&go] { go.WaitForNotification(); });
  for (int i = 0; i < 100; ++i) executor->Run([&runs] { ++runs; });
  EXPECT_EQ(runs, 0);
  go.Notify();
  executor.reset();
  EXPECT_EQ(runs, 100);
}

TEST(ThreadPoolExecutorTest, JobMayQueueAnother) {
  std::atomic<int> runs = 0;
  {
    ThreadPoolExecutor executor(1);
    executor.Run([&] { executor.Run([&runs] { ++runs; }); });
  }
  EXPECT_EQ(runs, 1);
}

TEST(ThreadPoolExecutorTest, JobsAreReleasedAfterTheirRun) {
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = held;
  absl::Notification ran;
  ThreadPoolExecutor executor(1);
  executor.Run([held = std::move(held)] {});
  executor.Run([&ran] { ran.Notify(); });
  ran.WaitForNotification();
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace graft
