#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/common/clock.h"
#include "server/common/executor.h"
#include "server/engine/engine.h"
#include "server/scheduling/active_request.h"
#include "server/scheduling/base_guard.h"
#include "server/scheduling/batch_runner.h"
#include "server/scheduling/device_rate.h"
#include "server/scheduling/generation_task.h"
#include "server/scheduling/request_ledger.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/resident_adapters.h"
#include "server/scheduling/scheduler_load.h"

namespace graft {

// Owns the one thread that switches adapters and denoises on the device, and
// the bounded queue before it. Between two steps of the device it decides anew
// who makes the next one (scheduling_policy.h), so requests join a running
// batch, leave it, and yield to others and go on later, which their images do
// not show. What fails fails for its own request only. Thread-safe.
//
//   RequestScheduler scheduler(engine, encoder, clock, {});
//   GRAFT_RETURN_IF_ERROR(scheduler.Submit(std::move(task)));
//   ...                                  // the task's observer is called
//   scheduler.Drain(absl::Seconds(30));  // before the end
class RequestScheduler {
 public:
  using OnVerified = std::function<void(const absl::StatusOr<VerifyReport>&)>;

  struct Options {
    // Off: every image makes its steps alone, and has the same bits whatever
    // else the device has to do.
    bool batching = true;
    // Images in one step at most, at least 1. Only sizes of BatchBucket() are
    // run. A batch that does not fit in the device's memory is run one by one,
    // and from then on until the device is idle, batches are at most half as
    // large.
    int max_batch_size = 4;
    // Bounds of what waits, in requests and in steps x images x pixels (the
    // default: 256 images of 1024 x 1024 in 50 steps). A single request may be
    // larger than that if it has the queue for itself.
    int max_queued_requests = 256;
    int64_t max_queued_work = int64_t{256} * 1024 * 1024 * 50;
    // An image's steps are reported this often at most, but for its last one:
    // reports take processor time that the steps may need.
    absl::Duration progress_interval = absl::ZeroDuration();
    // What a refused client is told to wait, as long as the device's speed is
    // not known.
    absl::Duration retry_delay = absl::Seconds(1);
    // Called on the owner thread when what is known of the base's weights
    // changes: with BASE_WEIGHTS_DRIFT when they differ from what was loaded,
    // or cannot be repaired; with OK when they are intact again.
    std::function<void(const absl::Status&)> on_drift = nullptr;
    // Called on the owner thread with the outcome of every verification of the
    // base's weights, those included that the scheduler makes itself.
    OnVerified on_verified = nullptr;
    // Called on the owner thread, once, with an error that IsDeviceLost(): what
    // was accepted has ended, and nothing is admitted any more.
    std::function<void(const absl::Status&)> on_device_lost = nullptr;
    // Called on the owner thread when the device's memory does not suffice:
    // makes room there, and is false if there is nothing that can go.
    std::function<bool()> make_room = nullptr;
    // Called on the owner thread after every step, for metrics.
    std::function<void(const BatchReport&)> on_step = nullptr;
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
  // deadline has passed or will have when its turn comes, CLIENT_CANCELLED,
  // ADMIN_CANCELLED when one of its adapters is being unloaded by force (which
  // ends it later, too), BASE_WEIGHTS_DRIFT while the base is damaged.
  absl::Status Submit(std::unique_ptr<GenerationTask> task)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Runs `job` on the owner thread before the next step. The job may call the
  // engine, but not switch it.
  void RunOnOwnerThread(std::function<void(Engine&)> job)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Lets go of an adapter: switches to the base if it is merged, then drops
  // `adapter`, and calls `done` on the owner thread with the bytes that this
  // freed. REQUIRES: no request that names it is accepted any more, so that
  // `adapter` and perhaps the engine hold the last references.
  void ReleaseAdapter(PreparedAdapterPtr adapter,
                      std::function<void(absl::StatusOr<int64_t>)> done)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Switches to the base if there is no request: what was merged last gives way
  // to what somebody has to bring to the device for the next one. Calls `done`
  // on the owner thread afterwards.
  void LetGoWhileIdle(std::function<void()> done) ABSL_LOCKS_EXCLUDED(mu_);

  // Compares the base's weights with what was loaded, between two steps, and
  // calls `done` on the owner thread. What differs ends all requests that the
  // device has begun with BASE_WEIGHTS_DRIFT, as their images cannot be
  // trusted, and is repaired before anything else is done, whether `repair` or
  // not. One comparison serves all that ask before it begins, so that callers
  // who lose patience and ask again do not keep the device busy with it. While
  // something stays unrepaired, every request is refused with
  // BASE_WEIGHTS_DRIFT, until a verification finds all intact.
  void VerifyBaseWeights(bool repair, OnVerified done) ABSL_LOCKS_EXCLUDED(mu_);

  // Images that make a step together at most.
  int max_batch_size() const {
    return options_.batching ? options_.max_batch_size : 1;
  }

  // The adapter set that is merged now.
  std::vector<AppliedAdapter> resident() const { return resident_.Get(); }

  // False once StopAdmitting or Drain was called.
  bool admitting() const ABSL_LOCKS_EXCLUDED(mu_);

  // What there is to do now.
  SchedulerLoad load() const ABSL_LOCKS_EXCLUDED(mu_);

  // Refuses new tasks from now on. The accepted ones go on.
  void StopAdmitting() ABSL_LOCKS_EXCLUDED(mu_);

  // Refuses new tasks, then waits until the accepted ones are done or `timeout`
  // is over; what is left then ends CANCELLED. Returns when nothing runs.
  void Drain(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Job = std::function<void()>;

  // ---- Admission ----

  // OK if there is room for `newcomer`, or the refusal.
  absl::Status CheckRoom(const RequestView& newcomer) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // DRAINING with a retry delay.
  absl::Status Draining() const;

  // Refuses new tasks and ends the accepted ones ADMIN_CANCELLED: those that
  // wait at once, the running ones before their next stage.
  void Abort() ABSL_LOCKS_EXCLUDED(mu_);

  // A request is over, its last reply delivered.
  void OnRequestDone() ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Requests that end while they wait ----

  std::vector<AcceptedRequest> TakeDead(absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<AcceptedRequest> TakeAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Reports that requests whose client is gone or whose deadline has passed are
  // over.
  static void EndDead(const std::vector<AcceptedRequest>& dead, absl::Time now);

  // ---- The owner thread ----

  void RunOwnerThread();

  // Waits for something to do; false when the scheduler is to stop.
  bool AwaitWork() ABSL_LOCKS_EXCLUDED(mu_);

  void RunJobs() ABSL_LOCKS_EXCLUDED(mu_);

  // Repairs a base that is suspected. False while it is damaged: what waits has
  // been ended, and nothing may run.
  bool GuardBase() ABSL_LOCKS_EXCLUDED(mu_);

  // Ends the requests that nobody wants any more.
  void EndUnwanted() ABSL_LOCKS_EXCLUDED(mu_);

  // Chooses the next batch and begins with its new requests. Empty if there is
  // nothing to do.
  std::vector<BatchMember> ChooseBatch() ABSL_LOCKS_EXCLUDED(mu_);

  // Tells waiting clients whose place in the queue has changed, every now and
  // then.
  void TellPlaces() ABSL_LOCKS_EXCLUDED(mu_);

  // Has `batch` make its step.
  void RunBatch(const std::vector<BatchMember>& batch) ABSL_LOCKS_EXCLUDED(mu_);

  // Writes down what came of it in `busy`.
  void Record(const std::vector<BatchMember>& batch, const BatchReport& report,
              absl::Duration busy) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Removes the requests that have ended from the active ones.
  void RemoveEnded() ABSL_LOCKS_EXCLUDED(mu_);

  // Ends everything: what has begun with `status`, what waits with DRAINING.
  void OnDeviceLost(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  // Tells the listener, and ends the active requests if the base drifted.
  void OnDrift(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  ActiveRequest& FindActive(int64_t id);

  Engine* const engine_;
  Executor* const encoder_;
  const Clock* const clock_;
  const Options options_;

  ResidentAdapters resident_;
  BaseGuard guard_;
  std::atomic<bool> aborting_{false};

  // Owner thread.
  BatchRunner runner_;
  std::vector<std::unique_ptr<ActiveRequest>> active_;
  absl::Time next_places_;  // when TellPlaces has something to do
  BatchStop batch_stop_ = BatchStop::kFull;  // of the batch at hand
  bool device_lost_ = false;

  mutable absl::Mutex mu_;
  // Every request that is not over; those that wait are in queue_ as well.
  RequestLedger ledger_ ABSL_GUARDED_BY(mu_);
  RequestQueue queue_ ABSL_GUARDED_BY(mu_);
  DeviceRate rate_ ABSL_GUARDED_BY(mu_);
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mu_);
  // Who waits for a verification that has not begun: without repair, with it.
  std::vector<OnVerified> to_verify_[2] ABSL_GUARDED_BY(mu_);
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  int batch_size_ ABSL_GUARDED_BY(mu_) = 0;
  int unfinished_ ABSL_GUARDED_BY(mu_) = 0;  // accepted, OnDone not called
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  // Calls the observers, and takes no core from the steps for it.
  ThreadPoolExecutor replier_{1, Wakeup::kPolitely};
  std::thread owner_thread_;  // last: starts when all else is there
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_SCHEDULER_H_
