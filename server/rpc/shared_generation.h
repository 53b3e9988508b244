#ifndef GRAFT_SERVER_RPC_SHARED_GENERATION_H_
#define GRAFT_SERVER_RPC_SHARED_GENERATION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// One request's way back to everybody who asked for it: usually one client, and
// those who sent the same request again. The scheduler reports to it once; each
// listener hears all of it, in order, one call at a time, and OnDone last.
// Thread-safe; no lock is held while a listener is called.
class SharedGeneration : public GenerationObserver {
 public:
  // Told that the request is over, before the listeners are.
  using Done = std::function<void(const SharedGeneration& generation,
                                  const absl::Status& status,
                                  const GenerationSummary& summary)>;

  // `first_seed` is image 0's. `keeps`: who joins late hears what came before,
  // images included.
  SharedGeneration(uint64_t first_seed, bool keeps, Done on_done)
      : first_seed_(first_seed), keeps_(keeps), on_done_(std::move(on_done)) {}

  uint64_t first_seed() const { return first_seed_; }

  // Set when nobody wants the request any more, for good.
  const CancelFlag& cancel_flag() const { return cancel_flag_; }

  // Reports to `listener` too: what was kept so far, then what comes.
  void Join(std::shared_ptr<GenerationObserver> listener)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The client of `listener` is gone. If others listen, this one hears OnDone
  // with CLIENT_CANCELLED; else the request is cancelled. As often as one
  // likes.
  void Leave(const GenerationObserver* listener) ABSL_LOCKS_EXCLUDED(mu_);

  // Bytes of the images that are kept.
  int64_t kept_bytes() const ABSL_LOCKS_EXCLUDED(mu_);

  // The scheduler calls these.
  void OnQueued(int position, absl::Duration estimated_wait) override;
  void OnStarted() override;
  void OnProgress(int image_index, int step, int steps) override;
  void OnPreview(int image_index, int step, int steps,
                 std::string png) override;
  void OnImage(int image_index, std::string png) override
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

  // Queues `event` for every listener, and delivers.
  void Tell(const Event& event, bool keep) ABSL_LOCKS_EXCLUDED(mu_);

  // Calls the listener until nothing waits for it.
  void Deliver(const ListenerPtr& listener) ABSL_LOCKS_EXCLUDED(mu_);

  const uint64_t first_seed_;
  const bool keeps_;
  const Done on_done_;
  const CancelFlag cancel_flag_ = std::make_shared<std::atomic<bool>>(false);

  mutable absl::Mutex mu_;
  std::vector<ListenerPtr> listeners_ ABSL_GUARDED_BY(mu_);  // until OnDone
  std::vector<Event> kept_ ABSL_GUARDED_BY(mu_);
  int64_t kept_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_SHARED_GENERATION_H_
