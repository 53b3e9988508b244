#ifndef GRAFT_SERVER_ENGINE_COMPUTE_POOL_H_
#define GRAFT_SERVER_ENGINE_COMPUTE_POOL_H_

#include <cstddef>
#include <functional>

#include "server/common/executor.h"

namespace graft {

// Threads that run one function side by side, each of which LibTorch computes
// on that one thread: the bits of what it computes do not depend on how many
// there are. (Threads that share every operation instead meet after each,
// hundreds of times in a step, which costs small models more than the
// arithmetic. And at::parallel_for is a template that runs in parallel only in
// files compiled with OpenMP of LibTorch's own kind.) Not thread-safe.
class ComputePool {
 public:
  // REQUIRES: threads > 0. Leaves at::get_num_threads() as it is.
  explicit ComputePool(int threads);

  int threads() const { return threads_; }

  // Calls f(i) for each i in [0, threads()), side by side, in inference mode,
  // and returns when all have returned. Throws the first of what `f` throws.
  void RunOnAll(const std::function<void(int)>& f);

  // Calls f(i) for each i in [0, count), each on one thread, in an order that
  // nobody may rely on. Throws the first of what `f` throws, and then some may
  // not have been called.
  void ForEach(size_t count, const std::function<void(size_t)>& f);

 private:
  const int threads_;
  ThreadPoolExecutor executor_;
};

// Calls `f` on a thread that LibTorch computes on alone, in inference mode, one
// call at a time in the whole process, and returns when it has returned: for
// what has to have the same bits however many threads there are, or what
// several threads cannot do at once (MKL's LU decomposition, which LibTorch's
// batched one calls from many). Throws what `f` throws. Thread-safe.
void ComputeAlone(const std::function<void()>& f);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_COMPUTE_POOL_H_
