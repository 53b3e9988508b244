#include "server/common/executor.h"

#include <pthread.h>
#include <sched.h>

#include <utility>

namespace graft {
namespace {

// Best effort: where it is refused, a thread is as any other.
void WakePolitely() {
  const sched_param priority{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &priority);
}

}  // namespace

ThreadPoolExecutor::ThreadPoolExecutor(int num_threads, Wakeup wakeup)
    : wakeup_(wakeup) {
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] { Work(); });
  }
}

ThreadPoolExecutor::~ThreadPoolExecutor() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPoolExecutor::Run(std::function<void()> job) {
  absl::MutexLock lock(&mu_);
  jobs_.push_back(std::move(job));
}

bool ThreadPoolExecutor::WaitUntilIdle(absl::Duration timeout) {
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return jobs_.empty() && running_ == 0;
  };
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&idle), timeout);
}

void ThreadPoolExecutor::Work() {
  if (wakeup_ == Wakeup::kPolitely) WakePolitely();
  while (true) {
    std::function<void()> job;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stopping_ || !jobs_.empty();
      };
      mu_.Await(absl::Condition(&ready));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      ++running_;
    }
    job();
    job = nullptr;  // what it holds goes before it counts as done
    absl::MutexLock lock(&mu_);
    --running_;
  }
}

}  // namespace graft
