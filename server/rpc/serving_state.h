#ifndef GRAFT_SERVER_RPC_SERVING_STATE_H_
#define GRAFT_SERVER_RPC_SERVING_STATE_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/adapters/adapter_store.h"
#include "server/common/executor.h"
#include "server/engine/engine.h"
#include "server/rpc/request_validation.h"
#include "server/scheduling/request_loader.h"
#include "server/scheduling/request_scheduler.h"

namespace graft {

// What the services work with once the base model is loaded. Nothing is owned.
struct Backend {
  const Engine* engine = nullptr;
  AdapterStore* adapters = nullptr;
  RequestScheduler* scheduler = nullptr;
  RequestLoader* requests = nullptr;  // the way to it
  Executor* loader = nullptr;  // runs what blocks: reading adapters
  // Commits uploads. Has one thread: of two that replace one another, each has
  // to find what the other has left. One of its own, as a commit can take long.
  Executor* committer = nullptr;
  std::string adapter_dir;  // for uploads; empty: there can be none
  RequestLimits limits;
  GenerationDefaults defaults;
  bool batching = true;
};

// Whether the server can do anything yet, or any more:
//
//   starting   the port is open, the base model loads
//   serving    from SetServing on
//   draining   from SetDraining on; for good: nothing new is accepted
//   stopping   from SetStopping on; the same, and the process ends
//
// Thread-safe.
class ServingState {
 public:
  // `retry_delay` is what refused clients are told to wait.
  explicit ServingState(absl::Duration retry_delay)
      : retry_delay_(retry_delay) {}

  // `backend` outlives the server that asks for it.
  void SetServing(const Backend* backend) ABSL_LOCKS_EXCLUDED(mu_);
  void SetDraining() ABSL_LOCKS_EXCLUDED(mu_);
  void SetStopping() ABSL_LOCKS_EXCLUDED(mu_);

  // The backend, or UNAVAILABLE STARTING or DRAINING with the retry delay.
  absl::StatusOr<const Backend*> Get() const ABSL_LOCKS_EXCLUDED(mu_);

  // The same, for methods that work while the server drains, too.
  absl::StatusOr<const Backend*> GetWhileDraining() const
      ABSL_LOCKS_EXCLUDED(mu_);

  // True while it stops, too.
  bool draining() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const absl::Duration retry_delay_;
  mutable absl::Mutex mu_;
  const Backend* backend_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_SERVING_STATE_H_
