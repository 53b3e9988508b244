#include "server/engine/weights/compute_pool.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/ParallelGuard.h>

#include <atomic>
#include <exception>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"

namespace graft {

ComputePool::ComputePool(int threads) : threads_(threads) {
  if (threads > 1) others_ = std::make_unique<ThreadPoolExecutor>(threads - 1);
}

void ComputePool::RunOnAll(const std::function<void(int)>& f) {
  absl::BlockingCounter running(threads_ - 1);
  for (int i = 1; i < threads_; ++i) {
    others_->Run([&f, &running, i] {
      f(i);
      running.DecrementCount();
    });
  }
  f(0);
  running.Wait();
}

void ComputePool::ForEach(size_t count, const std::function<void(size_t)>& f) {
  std::atomic<size_t> next{0};
  absl::Mutex mu;
  std::exception_ptr first;
  RunOnAll([&](int) {
    const c10::InferenceMode inference;
    const c10::ParallelGuard no_more_threads(true);
    while (true) {
      const size_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) return;
      try {
        f(i);
      } catch (...) {
        absl::MutexLock lock(&mu);
        if (first == nullptr) first = std::current_exception();
        next = count;
      }
    }
  });
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace graft
