#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_LOADER_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/adapters/adapter_store.h"
#include "server/common/clock.h"
#include "server/common/executor.h"
#include "server/scheduling/generation_task.h"
#include "server/scheduling/request_scheduler.h"
#include "server/scheduling/tenant_line.h"
#include "server/scheduling/weight_schedule.h"

namespace graft {

// An adapter as a request names it, checked.
struct AdapterChoice {
  std::string name;
  std::string sha256 = "";  // lower case; empty: any
  double weight = 1.0;
  double text_encoder_weight = 1.0;
  std::vector<WeightRange> schedule = {};  // in the order of the steps
};

// The way of a request to the scheduler: what it names has to be on the device
// first. Where all is there, that takes no time. Else
//
//   1. its files are read and prepared, on the executor's threads;
//   2. if the device is full of what others use, it waits for room.
//
// In both lines tenants take turns. Of those that wait for room only the first
// is looked at, and it keeps what it has got already, so that no two can wait
// for each other; and once it has waited for `ageing`, no other request may
// begin to use what is on the device and not its own, so that it comes to an
// end however busy the device is. What was merged last gives way when the
// device is idle.
//
// Thread-safe.
class RequestLoader {
 public:
  struct Options {
    // A request may name NAME, which is not loaded: AdapterStore::Options.
    bool autoload = false;
    // Requests whose adapters are loaded at once.
    int threads = 1;
    // Requests that wait in the two lines, but for the first of each tenant.
    int max_waiting = 256;
    // How long a request waits for room.
    absl::Duration patience = absl::Seconds(30);
    absl::Duration ageing = absl::Seconds(2);
  };

  // What waits now.
  struct Load {
    int requests = 0;
    std::vector<std::string> adapters;  // that they name, each once
  };

  // All outlive the loader; `executor` runs until then.
  RequestLoader(AdapterStore* store, RequestScheduler* scheduler,
                Executor* executor, const Clock* clock, const Options& options);

  // Ends what still waits with DRAINING, and the scheduler's admitting with it;
  // waits for what is being read.
  ~RequestLoader();

  RequestLoader(const RequestLoader&) = delete;
  RequestLoader& operator=(const RequestLoader&) = delete;

  // Adds what `choices` name to `task`, and hands it to the scheduler: at once,
  // or later, on another thread; then the task's observer hears of an error.
  // An error at once is an answer, and the observer is never called:
  // ADAPTER_NOT_FOUND or ADAPTER_VERSION_MISMATCH as AdapterStore::Acquire,
  // INVALID_FIELD (field "adapters") if two have the same content, QUEUE_FULL
  // with a retry delay, or as RequestScheduler::Submit. Later, too, as
  // AdapterStore::AcquireResident; ADAPTER_CACHE_FULL if there was no room for
  // `patience`, or never can be, as is told at once and without a retry delay;
  // DRAINING if the scheduler has stopped admitting meanwhile.
  absl::Status Submit(std::unique_ptr<GenerationTask> task,
                      std::vector<AdapterChoice> choices)
      ABSL_LOCKS_EXCLUDED(mu_);

  Load load() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // A request whose adapters are not all on the device.
  struct Waiter {
    std::unique_ptr<GenerationTask> task;  // with those adapters that are
    std::vector<AdapterChoice> choices;
    absl::Time began;
    absl::Time full_since = absl::InfiniteFuture();  // waits for room
  };
  // Shared, as std::function copies; in one pair of hands at a time.
  using WaiterPtr = std::shared_ptr<Waiter>;

  // The adapters of a request, those that are loaded.
  absl::StatusOr<std::vector<RequestedAdapter>> Acquire(
      const std::vector<AdapterChoice>& choices);

  // Whether a request for `choices` would use what the first in the line, which
  // has waited for long, is waiting for.
  bool MustGiveWay(const std::vector<AdapterChoice>& choices) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // ---- Counts ----

  // Takes the request up, unless too many wait: QUEUE_FULL.
  absl::Status Count(const Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // It waits no longer. To be called before anybody hears of its end.
  void Uncount(const std::string& tenant,
               const std::vector<AdapterChoice>& choices)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Whether it is worth going on with: as CheckTaskLiveness, or DRAINING.
  absl::Status CheckWanted(const Waiter& waiter) const;

  // ---- Reading and preparing, on the executor ----

  void RunLoad() ABSL_LOCKS_EXCLUDED(mu_);
  // Goes on with the next adapter, or to the scheduler.
  void LoadNext(const WaiterPtr& waiter);
  void OnLoaded(const WaiterPtr& waiter, absl::StatusOr<AdapterHandle> handle);

  // ---- Waiting for room, on a thread of its own ----

  // Puts a request that has no adapter any more into the line.
  void WaitForRoom(const WaiterPtr& waiter) ABSL_LOCKS_EXCLUDED(mu_);

  // Where the line has no first one, the next is it.
  void ChooseFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void RunRoomThread();
  // Waits until somebody is in the line; false when the loader ends.
  bool AwaitWaiters() ABSL_LOCKS_EXCLUDED(mu_);
  // Ends those in the line that need not wait any longer.
  void EndUnwanted() ABSL_LOCKS_EXCLUDED(mu_);
  // OK while `waiter` may go on waiting; `full` if it has waited long enough.
  absl::Status CheckPatience(const Waiter& waiter,
                             const absl::Status& full) const;
  // Gets the first one what it still needs, and sees it off if it can. False:
  // it has to wait on.
  bool ServeFirst() ABSL_LOCKS_EXCLUDED(mu_);
  // What the adapters from number `begin` on take on the device, as far as it
  // is known.
  int64_t KnownBytes(const std::vector<AdapterChoice>& choices,
                     size_t begin) const;
  // Until there may be room.
  void Pause() ABSL_LOCKS_EXCLUDED(mu_);

  // ---- The end ----

  // To the scheduler, with all adapters.
  void HandOver(Waiter& waiter);
  // Tells the request's observer.
  void Fail(Waiter& waiter, const absl::Status& status);

  AdapterStore* const store_;
  RequestScheduler* const scheduler_;
  Executor* const executor_;
  const Clock* const clock_;
  const Options options_;

  mutable absl::Mutex mu_;
  // Of all that wait, in a line or in somebody's hands.
  int waiting_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, int> of_tenant_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> of_adapter_ ABSL_GUARDED_BY(mu_);
  TenantLine<WaiterPtr> to_load_ ABSL_GUARDED_BY(mu_);
  int loading_ ABSL_GUARDED_BY(mu_) = 0;  // jobs on the executor
  // The line for room, and its first, which is not in it any more.
  TenantLine<WaiterPtr> for_room_ ABSL_GUARDED_BY(mu_);
  WaiterPtr first_ ABSL_GUARDED_BY(mu_);
  bool letting_go_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::thread room_thread_;  // last: starts when all else is there
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_LOADER_H_
