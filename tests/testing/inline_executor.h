#ifndef GRAFT_TESTS_TESTING_INLINE_EXECUTOR_H_
#define GRAFT_TESTS_TESTING_INLINE_EXECUTOR_H_

#include <functional>

#include "server/common/executor.h"

namespace graft {

// Runs each job at once, on the caller's thread. Thread-safe.
class InlineExecutor : public Executor {
 public:
  void Run(std::function<void()> job) override { job(); }
};

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_INLINE_EXECUTOR_H_
