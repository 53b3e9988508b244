#ifndef GRAFT_SERVER_SCHEDULING_BASE_GUARD_H_
#define GRAFT_SERVER_SCHEDULING_BASE_GUARD_H_

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/engine/engine.h"
#include "server/scheduling/resident_adapters.h"

namespace graft {

// Knows whether the base's weights can be trusted, and has them verified and
// repaired. status() is thread-safe, all else is for the owner thread.
class BaseGuard {
 public:
  // Told BASE_WEIGHTS_DRIFT whenever a difference is found or turns out to be
  // beyond repair, and OK when all is intact again.
  using Listener = std::function<void(const absl::Status&)>;

  // Told the outcome of every verification. May be empty.
  using OnVerified = std::function<void(const absl::StatusOr<VerifyReport>&)>;

  // `resident` outlives the guard. `listener` may be empty.
  BaseGuard(ResidentAdapters* resident, Listener listener,
            OnVerified on_verified = nullptr)
      : resident_(resident),
        listener_(std::move(listener)),
        on_verified_(std::move(on_verified)) {}

  // OK, or the BASE_WEIGHTS_DRIFT that every request is to be refused with
  // because a repair has failed.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mu_);

  // Whether a difference was found that nobody has tried to repair. Then
  // Verify(true) comes before anything else.
  bool needs_repair() const { return state_ == State::kSuspected; }

  // A switch found that the weights are not what it left there.
  void ReportDrift(const absl::Status& drift);

  // Compares the weights with what was loaded, repairs them if `repair`, and
  // draws the conclusions. The base alone is resident afterwards.
  absl::StatusOr<VerifyReport> Verify(bool repair) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  enum class State {
    kIntact,
    kSuspected,  // found to differ, repair not yet tried
    kDamaged,    // a repair was tried in vain
  };

  // Takes on `state`, and tells the listener `status`.
  void Enter(State state, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  ResidentAdapters* const resident_;
  const Listener listener_;
  const OnVerified on_verified_;
  State state_ = State::kIntact;  // owner thread

  mutable absl::Mutex mu_;
  absl::Status refusal_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_BASE_GUARD_H_
