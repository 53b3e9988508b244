#ifndef GRAFT_SERVER_COMMON_EXECUTOR_H_
#define GRAFT_SERVER_COMMON_EXECUTOR_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace graft {

// Runs small jobs (parse an adapter, encode a PNG) away from the caller's
// thread. Thread-safe.
class Executor {
 public:
  virtual ~Executor() = default;

  // Runs `job` once, later, on some thread. Jobs must not throw.
  virtual void Run(std::function<void()> job) = 0;
};

// What a thread does when it is woken and all cores are busy.
enum class Wakeup {
  kAtOnce,   // takes a core, as threads do
  kPolitely  // waits until a thread pauses or has had its share: SCHED_BATCH
};

// A fixed number of threads over one queue. The destructor runs what is queued,
// then joins.
class ThreadPoolExecutor : public Executor {
 public:
  // Threads that are started by jobs inherit `wakeup`. REQUIRES: num_threads
  // > 0.
  explicit ThreadPoolExecutor(int num_threads, Wakeup wakeup = Wakeup::kAtOnce);
  ~ThreadPoolExecutor() override;

  void Run(std::function<void()> job) override ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until nothing is queued or runs; false when `timeout` is over first.
  bool WaitUntilIdle(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Work() ABSL_LOCKS_EXCLUDED(mu_);

  const Wakeup wakeup_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mu_);
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // constant after construction
};

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_EXECUTOR_H_
