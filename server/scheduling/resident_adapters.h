#ifndef GRAFT_SERVER_SCHEDULING_RESIDENT_ADAPTERS_H_
#define GRAFT_SERVER_SCHEDULING_RESIDENT_ADAPTERS_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/engine/engine.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// `adapters` as a reply tells them.
std::vector<AppliedAdapter> ToAppliedAdapters(
    const std::vector<RequestedAdapter>& adapters);

// Switches the engine's weights and remembers, by name, what is merged. The
// switches are for the owner thread; Get is thread-safe.
class ResidentAdapters {
 public:
  // `engine` outlives this object and is switched by nobody else.
  explicit ResidentAdapters(Engine* engine) : engine_(engine) {}

  // Makes `adapters` the resident set; after an error the former one is.
  absl::StatusOr<SwitchReport> SwitchTo(
      const std::vector<RequestedAdapter>& adapters) ABSL_LOCKS_EXCLUDED(mu_);

  // Sees to it that the engine holds nothing of the adapter with this digest:
  // switches to the base if it is merged.
  absl::Status Release(absl::string_view sha256) ABSL_LOCKS_EXCLUDED(mu_);

  // What is merged now.
  std::vector<AppliedAdapter> Get() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Engine* const engine_;
  mutable absl::Mutex mu_;
  std::vector<AppliedAdapter> adapters_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_RESIDENT_ADAPTERS_H_
