#ifndef GRAFT_SERVER_ENGINE_PIPELINE_BATCH_THREADS_H_
#define GRAFT_SERVER_ENGINE_PIPELINE_BATCH_THREADS_H_

#include <functional>

#include "server/common/executor.h"

namespace graft {

// Threads for parts of a batch, side by side, each of which LibTorch computes
// on that one thread. Threads that share every operation instead meet after
// each, hundreds of times in a step, which costs small models more than the
// arithmetic. Owner-thread-only.
class BatchThreads {
 public:
  // REQUIRES: threads > 0. Leaves at::get_num_threads() as it is.
  explicit BatchThreads(int threads);

  int threads() const { return threads_; }

  // Calls f(i) for each i in [0, threads()), side by side, and
  // returns when all have returned. Throws the first of what `f` throws.
  void RunOnAll(const std::function<void(int)>& f);

 private:
  const int threads_;
  ThreadPoolExecutor executor_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_PIPELINE_BATCH_THREADS_H_
