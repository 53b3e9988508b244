#include "server/engine/compute_pool.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <atomic>
#include <exception>
#include <latch>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"

namespace graft {

ComputePool::ComputePool(int threads) : threads_(threads), executor_(threads) {
  const int all = at::get_num_threads();
  // Each thread has a setting of its own, which only it can change; the call
  // also changes what threads to come begin with. All are held until each has
  // had its turn, so that none has two.
  absl::Mutex mu;
  const auto all_are_set = std::make_shared<std::latch>(threads);
  for (int i = 0; i < threads; ++i) {
    executor_.Run([&mu, all_are_set] {
      {
        absl::MutexLock lock(&mu);
        // A thread's first operation would set it back to what new threads
        // begin with; this counts as one.
        at::get_num_threads();
        at::set_num_threads(1);
      }
      all_are_set->arrive_and_wait();
    });
  }
  all_are_set->wait();
  at::set_num_threads(all);
}

void ComputePool::RunOnAll(const std::function<void(int)>& f) {
  absl::Mutex mu;
  std::exception_ptr first;
  absl::BlockingCounter running(threads_);
  const auto run = [&](int i) {
    try {
      const c10::InferenceMode inference;
      f(i);
    } catch (...) {
      absl::MutexLock lock(&mu);
      if (first == nullptr) first = std::current_exception();
    }
    running.DecrementCount();
  };
  // Those that are queued use what is here: nothing may leave before the end.
  [&]() noexcept {
    for (int i = 0; i < threads_; ++i) executor_.Run([&run, i] { run(i); });
    running.Wait();
  }();
  if (first != nullptr) std::rethrow_exception(first);
}

void ComputePool::ForEach(size_t count, const std::function<void(size_t)>& f) {
  std::atomic<size_t> next{0};
  RunOnAll([&](int) {
    try {
      while (true) {
        const size_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= count) return;
        f(i);
      }
    } catch (...) {
      next = count;  // the others need not go on
      throw;
    }
  });
}

void ComputeAlone(const std::function<void()>& f) {
  static absl::Mutex mu(absl::kConstInit);
  absl::MutexLock lock(&mu);
  static auto* const pool = new ComputePool(1);
  pool->RunOnAll([&f](int) { f(); });
}

}  // namespace graft
