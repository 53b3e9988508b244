#include "server/rpc/serving_state.h"

#include "server/common/error.h"

namespace graft {

void ServingState::SetServing(const Backend* backend) {
  absl::MutexLock lock(&mu_);
  backend_ = backend;
}

void ServingState::SetDraining() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
}

void ServingState::SetStopping() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
  stopping_ = true;
}

absl::StatusOr<const Backend*> ServingState::Get() const {
  {
    absl::MutexLock lock(&mu_);
    if (draining_) {
      return WithRetryDelay(Error(ErrorReason::kDraining,
                                  stopping_ ? "the server is shutting down"
                                            : "the server is draining: it "
                                              "takes no new work"),
                            retry_delay_);
    }
  }
  return GetWhileDraining();
}

absl::StatusOr<const Backend*> ServingState::GetWhileDraining() const {
  absl::MutexLock lock(&mu_);
  if (backend_ == nullptr) {
    return WithRetryDelay(
        Error(ErrorReason::kStarting, "the base model is still loading"),
        retry_delay_);
  }
  return backend_;
}

bool ServingState::draining() const {
  absl::MutexLock lock(&mu_);
  return draining_;
}

}  // namespace graft
