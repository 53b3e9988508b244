#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/common/clock.h"
#include "server/common/executor.h"
#include "server/engine/engine.h"
#include "server/scheduling/generation_task.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/resident_adapters.h"

namespace graft {

// Owns the one thread that switches adapters and denoises on the device, and
// the bounded queue before it. Requests run one after the other; what fails
// fails for its own request only. Thread-safe.
//
//   RequestScheduler scheduler(engine, encoder, clock, {});
//   GRAFT_RETURN_IF_ERROR(scheduler.Submit(std::move(task)));
//   ...                                  // the task's observer is called
//   scheduler.Drain(absl::Seconds(30));  // before the end
class RequestScheduler {
 public:
  struct Options {
    int max_queued_requests = 256;
    // What a refused client is told to wait.
    absl::Duration retry_delay = absl::Seconds(1);
  };

  // All outlive the scheduler. From now on the engine's owner thread is the
  // scheduler's. `encoder` turns images into files.
  RequestScheduler(Engine* engine, Executor* encoder, const Clock* clock,
                   const Options& options);

  // Drains without patience: what is left ends CANCELLED.
  ~RequestScheduler();

  RequestScheduler(const RequestScheduler&) = delete;
  RequestScheduler& operator=(const RequestScheduler&) = delete;

  // Takes the task, or refuses it, and then the observer is never called:
  // QUEUE_FULL or DRAINING with a retry delay, DEADLINE_IN_QUEUE when the
  // deadline has already passed, CLIENT_CANCELLED.
  absl::Status Submit(std::unique_ptr<GenerationTask> task)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Runs `job` on the owner thread between two requests, before any queued one.
  // The job may call the engine, but not switch it.
  void RunOnOwnerThread(std::function<void(Engine&)> job)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Lets go of an adapter: switches to the base if it is merged, then drops
  // `adapter`, and calls `done` on the owner thread with the bytes that this
  // freed. REQUIRES: no request that names it is accepted any more, so that
  // `adapter` and perhaps the engine hold the last references.
  void ReleaseAdapter(PreparedAdapterPtr adapter,
                      std::function<void(absl::StatusOr<int64_t>)> done)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The adapter set that is merged now.
  std::vector<AppliedAdapter> resident() const { return resident_.Get(); }

  // Refuses new tasks, then waits until the accepted ones are done or `timeout`
  // is over; what is left then ends CANCELLED. Returns when nothing runs.
  void Drain(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Job = std::function<void()>;
  struct Stop {};
  using Work = std::variant<Stop, Job, AcceptedRequest>;

  // The owner thread.
  void RunOwnerThread();

  // Refuses new tasks and ends the accepted ones ADMIN_CANCELLED: those that
  // wait at once, the running one before its next step.
  void Abort() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits for something to do.
  Work AwaitWork() ABSL_LOCKS_EXCLUDED(mu_);

  // Ends the waiting requests whose client is gone or whose deadline has
  // passed.
  void EndDeadRequests() ABSL_LOCKS_EXCLUDED(mu_);
  void EndDead(const std::vector<AcceptedRequest>& dead, absl::Time now);

  // A request is over, its last reply delivered.
  void OnRequestDone() ABSL_LOCKS_EXCLUDED(mu_);

  Engine* const engine_;
  Executor* const encoder_;
  const Clock* const clock_;
  const Options options_;

  ResidentAdapters resident_;
  std::atomic<bool> aborting_{false};

  mutable absl::Mutex mu_;
  RequestQueue queue_ ABSL_GUARDED_BY(mu_);
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;  // the owner thread has a request
  int unfinished_ ABSL_GUARDED_BY(mu_) = 0;    // accepted, OnDone not called
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::thread owner_thread_;  // last: starts when all else is there
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_
