#ifndef GRAFT_TESTS_TESTING_MANUAL_EXECUTOR_H_
#define GRAFT_TESTS_TESTING_MANUAL_EXECUTOR_H_

#include <deque>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/common/executor.h"

namespace graft {

// Runs jobs when the test says so, on the test's thread. Thread-safe.
class ManualExecutor : public Executor {
 public:
  void Run(std::function<void()> job) override ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    jobs_.push_back(std::move(job));
  }

  // Waits until a job is there, and runs it.
  void RunNext() ABSL_LOCKS_EXCLUDED(mu_) {
    std::function<void()> job;
    {
      const auto has_job = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return !jobs_.empty();
      };
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&has_job));
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }

  int pending() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return static_cast<int>(jobs_.size());
  }

 private:
  mutable absl::Mutex mu_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_MANUAL_EXECUTOR_H_
