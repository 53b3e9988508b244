#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// Owns the one thread that switches adapters and denoises on the device, and
// the bounded queue before it. Thread-safe.
class RequestScheduler {
 public:
  struct Options {
    int max_queued_requests = 256;
  };

  // Takes the task, or refuses it: QUEUE_FULL or DRAINING with a retry delay,
  // and then the observer is never called.
  absl::Status Submit(std::unique_ptr<GenerationTask> task);

  // Runs `job` on the owner thread between two requests, before any queued one.
  void RunOnOwnerThread(std::function<void(Engine&)> job);

  // Refuses new tasks, then waits until the accepted ones are done or `timeout`
  // is over; what is left then ends CANCELLED. Returns when nothing runs.
  void Drain(absl::Duration timeout);
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_
