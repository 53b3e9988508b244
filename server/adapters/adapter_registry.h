#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/adapters/adapter_handle.h"
#include "server/adapters/adapter_info.h"
#include "server/engine/engine.h"

namespace graft {

// The names, states and users of all adapters; knows nothing of files and
// formats. Of one name there is at most one that loads and at most one that is
// active; any number may still be unloading.
//
// Held by the store and by every handle. Thread-safe; callbacks run and
// adapters are destroyed without the lock.
class AdapterRegistry : public std::enable_shared_from_this<AdapterRegistry> {
 public:
  using UnloadDone = std::function<void(absl::StatusOr<PreparedAdapterPtr>)>;

  // Reserves `name` for the caller's load of `path`, once no other load of this
  // name is under way. Returns the load's id, which ends with Activate or
  // AbandonLoad.
  int64_t BeginLoad(const std::string& name, const std::string& path)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The load `id` is over and leaves no trace.
  void AbandonLoad(const std::string& name, int64_t id)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The load `id` has succeeded: requests get `prepared` from now on, described
  // by `info` (name, state, times and counts are set here). What was active
  // under the name is unloaded. Returns what Get would.
  AdapterInfo Activate(int64_t id, AdapterInfo info,
                       PreparedAdapterPtr prepared) ABSL_LOCKS_EXCLUDED(mu_);

  // The active adapter of this name, if there is one.
  std::optional<AdapterInfo> FindActive(absl::string_view name) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // As AdapterStore's methods of the same names.
  absl::StatusOr<AdapterInfo> Get(absl::string_view name) const
      ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<AdapterInfo> List() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<AdapterHandle> Acquire(absl::string_view name,
                                        absl::string_view sha256)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Unload(absl::string_view name, bool wait, UnloadDone done)
      ABSL_LOCKS_EXCLUDED(mu_);

  // For AdapterHandle: one handle less.
  void Release(const std::string& name, int64_t id) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Record {
    AdapterInfo info;
    PreparedAdapterPtr prepared;  // null while it loads
    UnloadDone unload_done;       // null: nobody waits
  };
  // By name, then by age.
  using Records = std::map<std::pair<std::string, int64_t>, Record>;

  // What is left of a record that is gone, to be dealt with after the lock.
  struct Remains {
    PreparedAdapterPtr prepared;
    UnloadDone unload_done;
  };

  // The record of this name in `state`, or the end.
  Records::iterator Find(absl::string_view name, AdapterState state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Records::const_iterator Find(absl::string_view name, AdapterState state) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // Moves to the next state; a record that is gone is removed.
  Remains Apply(Records::iterator record, AdapterEvent event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Begins an unload, and ends it if nobody uses the adapter.
  Remains StartUnload(Records::iterator record, UnloadDone done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Tells who waits for the unload, if anyone does.
  static void Settle(Remains remains);

  mutable absl::Mutex mu_;
  Records records_ ABSL_GUARDED_BY(mu_);
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_
