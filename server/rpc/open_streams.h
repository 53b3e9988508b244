#ifndef GRAFT_SERVER_RPC_OPEN_STREAMS_H_
#define GRAFT_SERVER_RPC_OPEN_STREAMS_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace graft {

// Counts streams that are open, for a server that ends to let their last
// messages reach the clients. Thread-safe.
class OpenStreams {
 public:
  void Enter() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    ++count_;
  }
  void Leave() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    --count_;
  }

  // Waits until none is open; false when `timeout` is over first.
  bool WaitUntilNone(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return count_ == 0;
    };
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&none), timeout);
  }

 private:
  absl::Mutex mu_;
  int count_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_OPEN_STREAMS_H_
