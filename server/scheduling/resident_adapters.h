#ifndef GRAFT_SERVER_SCHEDULING_RESIDENT_ADAPTERS_H_
#define GRAFT_SERVER_SCHEDULING_RESIDENT_ADAPTERS_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "server/engine/engine.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// Switches the engine's weights and remembers, by name, what is merged. Get is
// thread-safe, all else is for the owner thread.
class ResidentAdapters {
 public:
  // `engine` outlives this object and is switched by nobody else.
  explicit ResidentAdapters(Engine* engine) : engine_(engine) {}

  // Makes those of `adapters` the resident set that belong to step `step` of
  // `steps`; after an error the former one is.
  absl::StatusOr<SwitchReport> SwitchTo(
      absl::Span<const RequestedAdapter> adapters, int step, int steps)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Sees to it that the engine holds nothing of the adapter with this digest:
  // switches to the base if it is merged.
  absl::Status Release(absl::string_view sha256) ABSL_LOCKS_EXCLUDED(mu_);

  // Engine::VerifyBaseWeights, which leaves the base alone resident.
  absl::StatusOr<VerifyReport> VerifyBaseWeights(bool repair)
      ABSL_LOCKS_EXCLUDED(mu_);

  bool empty() const ABSL_LOCKS_EXCLUDED(mu_);

  // What is merged now, with its weights at this moment.
  std::vector<AppliedAdapter> Get() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Set(std::vector<AppliedAdapter> adapters) ABSL_LOCKS_EXCLUDED(mu_);

  Engine* const engine_;
  // Whether adapters_ is what the engine has: after an error it may have had to
  // go back to the base. Of the owner thread.
  bool known_ = true;
  mutable absl::Mutex mu_;
  std::vector<AppliedAdapter> adapters_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_RESIDENT_ADAPTERS_H_
