#ifndef GRAFT_SERVER_RPC_SHARED_GENERATION_H_
#define GRAFT_SERVER_RPC_SHARED_GENERATION_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// One request's way back to everybody who asked for it: usually one client, and
// those who sent the same request again. The scheduler reports to it once; each
// listener hears all of it, in order, one call at a time, and OnDone last. A
// listener takes a place first and joins then: in between the request counts as
// wanted. Thread-safe; no lock is held while a listener is called.
class SharedGeneration : public GenerationObserver {
 public:
  // Told that the request is over, before the listeners are.
  using Done = std::function<void(const SharedGeneration& generation,
                                  const absl::Status& status,
                                  const GenerationSummary& summary)>;

  // Streams that may be open for one request, those included that have heard
  // all and are still being read: each of them costs a message in flight.
  static constexpr int kMaxStreams = 16;

  // A stream's; given back when it is dropped.
  using Place = std::shared_ptr<void>;

  // `first_seed` is image 0's. `keeps`: who joins late hears what came before,
  // images included.
  SharedGeneration(uint64_t first_seed, bool keeps, Done on_done)
      : first_seed_(first_seed), keeps_(keeps), on_done_(std::move(on_done)) {}

  uint64_t first_seed() const { return first_seed_; }

  // Set when nobody wants the request any more, for good.
  const CancelFlag& cancel_flag() const { return cancel_flag_; }

  // Whether there is, or will be, something to listen to: false once it was
  // cancelled, unless it ended well all the same.
  bool wanted() const ABSL_LOCKS_EXCLUDED(mu_);

  // A place for one who Joins at once. CLIENT_CANCELLED unless wanted();
  // QUEUE_FULL if kMaxStreams have one.
  absl::StatusOr<Place> TakePlace() ABSL_LOCKS_EXCLUDED(mu_);

  // Reports to `listener` too: what was kept so far, then what comes. REQUIRES:
  // the caller took a place for it.
  void Join(std::shared_ptr<GenerationObserver> listener)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The client of `listener` is gone. If others listen or are about to, this
  // one hears OnDone with CLIENT_CANCELLED; else the request is cancelled. As
  // often as one likes.
  void Leave(const GenerationObserver* listener) ABSL_LOCKS_EXCLUDED(mu_);

  // Bytes of the images that are kept.
  int64_t kept_bytes() const ABSL_LOCKS_EXCLUDED(mu_);

  // The scheduler calls these.
  void OnQueued(int position, absl::Duration estimated_wait) override;
  void OnStarted() override;
  void OnProgress(int image_index, int step, int steps) override;
  void OnPreview(int image_index, int step, int steps,
                 std::string png) override;
  void OnImage(int image_index, std::shared_ptr<const std::string> png) override
      ABSL_LOCKS_EXCLUDED(mu_);
  void OnDone(const absl::Status& status,
              const GenerationSummary& summary) override
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Event = std::function<void(GenerationObserver&)>;

  // Guarded by mu_, but for `observer`, which is constant.
  struct Listener {
    std::shared_ptr<GenerationObserver> observer;
    std::deque<Event> events;
    bool delivering = false;  // some thread is at it
  };
  using ListenerPtr = std::shared_ptr<Listener>;

  bool WantedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Queues `event` for every listener, and delivers; the `last` one lets go of
  // the listeners.
  void Tell(const Event& event, bool keep, bool last = false)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Calls the listener until nothing waits for it.
  void Deliver(const ListenerPtr& listener) ABSL_LOCKS_EXCLUDED(mu_);

  const uint64_t first_seed_;
  const bool keeps_;
  const Done on_done_;
  const CancelFlag cancel_flag_ = std::make_shared<std::atomic<bool>>(false);

  // Places that are taken; the streams' ends may come after that of the
  // request.
  const std::shared_ptr<std::atomic<int>> streams_ =
      std::make_shared<std::atomic<int>>(0);

  mutable absl::Mutex mu_;
  int joining_ ABSL_GUARDED_BY(mu_) = 0;  // places whose listener comes yet
  std::vector<ListenerPtr> listeners_ ABSL_GUARDED_BY(mu_);  // until OnDone
  std::optional<absl::Status> ending_ ABSL_GUARDED_BY(mu_);  // from OnDone on
  bool told_all_ ABSL_GUARDED_BY(mu_) = false;  // kept_ has the end
  std::vector<Event> kept_ ABSL_GUARDED_BY(mu_);
  int64_t kept_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_SHARED_GENERATION_H_
