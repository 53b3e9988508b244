#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_COMPUTE_POOL_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_COMPUTE_POOL_H_

#include <cstddef>
#include <functional>
#include <memory>

#include "server/common/executor.h"

namespace graft {

// Runs one function on several threads at once, the caller's among them.
// (at::parallel_for is a template that runs in parallel only in files compiled
// with OpenMP of LibTorch's own kind.) Not thread-safe.
class ComputePool {
 public:
  // REQUIRES: threads > 0.
  explicit ComputePool(int threads);

  int threads() const { return threads_; }

  // Calls f(i) for each i in [0, threads()), side by side, and returns when all
  // have returned. REQUIRES: `f` does not throw.
  void RunOnAll(const std::function<void(int)>& f);

  // Calls f(i) for each i in [0, count), each on one thread, in an order that
  // nobody may rely on. Operations of LibTorch's own inside `f` do not share
  // their work with further threads, so that bits do not depend on how many
  // there are. Throws the first of what `f` throws.
  void ForEach(size_t count, const std::function<void(size_t)>& f);

 private:
  const int threads_;
  std::unique_ptr<ThreadPoolExecutor> others_;  // null for one thread
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_COMPUTE_POOL_H_
