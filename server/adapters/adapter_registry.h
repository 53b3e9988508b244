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
#include "server/adapters/adapter_cache.h"
#include "server/adapters/adapter_file.h"
#include "server/adapters/adapter_handle.h"
#include "server/adapters/adapter_info.h"
#include "server/engine/engine.h"

namespace graft {

// What an unload does about requests that use the adapter.
enum class UnloadMode {
  kWait,          // waits for them
  kOnlyIfUnused,  // is refused
  kForce,         // asks them to end, and waits for that
};

// The names, states and users of all adapters; knows nothing of files and
// formats. Of one name there is at most one that loads and at most one that is
// active; any number may still be unloading.
//
// Held by the store and by every handle. Thread-safe; callbacks run and
// adapters are destroyed without the lock, which is taken before the cache's.
class AdapterRegistry : public std::enable_shared_from_this<AdapterRegistry> {
 public:
  using UnloadDone = std::function<void(absl::StatusOr<PreparedAdapterPtr>)>;

  explicit AdapterRegistry(std::shared_ptr<AdapterCache> cache)
      : cache_(std::move(cache)) {}

  AdapterCache& cache() const { return *cache_; }

  // Reserves `name` for the caller's load of `path`, once no other load of this
  // name is under way. Returns the load's id, which ends with Activate or
  // AbandonLoad.
  int64_t BeginLoad(const std::string& name, const std::string& path)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The same, but while another load of this name is under way, does not wait
  // for it: returns nullopt, and calls `again` afterwards.
  std::optional<int64_t> TryBeginLoad(const std::string& name,
                                      const std::string& path,
                                      AdapterCache::Continuation again)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The load `id` is over and leaves no trace.
  void AbandonLoad(const std::string& name, int64_t id)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The load `id` has succeeded: requests get `content` from now on, described
  // by `info` (state, times and counts are set here). What was active under
  // the name is unloaded, and its pin goes over to this one. `stamp` is
  // that of its file. `handle`, if not null, becomes one of it. Returns what
  // Get would.
  AdapterInfo Activate(int64_t id, AdapterInfo info, AdapterContentPtr content,
                       const FileStamp& stamp, AdapterHandle* handle)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The same for a load that nobody has asked for, unless the name has been
  // unloaded since it began. Then returns nullopt, and the load is not over.
  std::optional<AdapterInfo> ActivateChanged(int64_t id, AdapterInfo info,
                                             AdapterContentPtr content,
                                             const FileStamp& stamp)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The active adapter `name` has been found unchanged, with this content, in a
  // file with this stamp; if `asked_for`, by somebody who wants it loaded, so
  // that it is not autoloaded any more. False if another is active by now, or
  // none.
  bool Confirm(absl::string_view name, absl::string_view sha256,
               const FileStamp& stamp, bool asked_for) ABSL_LOCKS_EXCLUDED(mu_);

  // An adapter that was autoloaded, for watching its file.
  struct Watched {
    std::string name;
    std::string path;
    FileStamp stamp;
  };
  std::vector<Watched> Autoloaded() const ABSL_LOCKS_EXCLUDED(mu_);

  // What is still active as `watched` says, and autoloaded: has `stamp` from
  // now on, or is unloaded. False if there is no such adapter (any more), or it
  // is pinned and cannot be unloaded.
  bool UpdateStamp(const Watched& watched, const FileStamp& stamp)
      ABSL_LOCKS_EXCLUDED(mu_);
  bool UnloadWatched(const Watched& watched) ABSL_LOCKS_EXCLUDED(mu_);

  // Bytes of host memory that UnloadIdle, called until it finds nothing, would
  // give back.
  int64_t IdleBytes() const ABSL_LOCKS_EXCLUDED(mu_);

  // Unloads the content that was not used for the longest time, under all of
  // its names, of those that nobody else has: all names are autoloaded, and
  // none is in use or pinned. Returns how many names that were; 0 if there is
  // no such content.
  int UnloadIdle() ABSL_LOCKS_EXCLUDED(mu_);

  // True if a content in memory was read from `path`, which had this many bytes
  // then.
  bool HasRead(absl::string_view path, int64_t bytes) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // Active adapters that nobody uses, not pinned, the one that was not used for
  // the longest time first.
  std::vector<std::string> IdleNames() const ABSL_LOCKS_EXCLUDED(mu_);

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
  absl::StatusOr<AdapterInfo> SetPinned(absl::string_view name, bool pinned)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The same, but an error is returned, and `done` (null: nobody waits) is not
  // called then.
  absl::Status Unload(absl::string_view name, UnloadMode mode, UnloadDone done)
      ABSL_LOCKS_EXCLUDED(mu_);

  // For AdapterHandle: as its methods, and one handle less.
  void CountUse(const std::string& name, int64_t id) ABSL_LOCKS_EXCLUDED(mu_);
  void OnForcedUnload(const std::string& name, int64_t id, int64_t use,
                      std::function<void()> cancel) ABSL_LOCKS_EXCLUDED(mu_);
  void Release(const std::string& name, int64_t id, int64_t use)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Record {
    AdapterInfo info;           // without what Describe adds
    AdapterContentPtr content;  // null while it loads
    FileStamp stamp;
    std::vector<AdapterCache::Continuation> waiting;  // while it loads
    int64_t last_use = 0;                 // a count, as clocks can be set
    std::vector<UnloadDone> unload_done;  // of all who wait
    bool forced = false;                  // its users are asked to end
    bool unwanted = false;  // while it loads: its name was unloaded
    std::map<int64_t, std::function<void()>> cancels;  // by use
  };
  // By name, then by age.
  using Records = std::map<std::pair<std::string, int64_t>, Record>;

  // A content that UnloadIdle can unload.
  struct IdleContent {
    std::vector<std::pair<std::string, int64_t>> records;  // their keys
    int64_t last_use = 0;                                  // of any of them
    int64_t bytes = 0;
    int64_t pointers = 0;  // to it, of whoever
  };
  std::map<const AdapterContent*, IdleContent> IdleContents() const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // What is left of a record that is gone, to be dealt with after the lock.
  struct Remains {
    AdapterContentPtr content;
    std::vector<UnloadDone> unload_done;
  };

  // The record of this name in `state`, or the end.
  Records::iterator Find(absl::string_view name, AdapterState state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Records::const_iterator Find(absl::string_view name, AdapterState state) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // A new record that loads. REQUIRES: no other of this name does.
  int64_t AddLoad(const std::string& name, const std::string& path)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Activate, if `asked_for`, else ActivateChanged.
  std::optional<AdapterInfo> ActivateIf(
      bool asked_for, int64_t id, AdapterInfo info, AdapterContentPtr content,
      const FileStamp& stamp, AdapterHandle* handle) ABSL_LOCKS_EXCLUDED(mu_);

  // What is known of the record at this moment.
  AdapterInfo Describe(const Record& record) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  AdapterHandle MakeHandle(Records::iterator record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // The record that is what `watched` says, or the end.
  Records::iterator FindWatched(const Watched& watched)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // True if it is active, nobody uses it, and it is not pinned.
  static bool IsIdle(const Record& record);

  // Why `active`, the active record of `name` or the end, cannot be unloaded.
  absl::Status CheckUnload(Records::const_iterator active,
                           absl::string_view name, UnloadMode mode) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // Has the users of a record asked to end, with `cancels`, which are to be
  // called without the lock.
  static void Force(Record& record,
                    std::vector<std::function<void()>>& cancels);

  // All versions of `name` that are on their way out, by age.
  std::vector<Records::iterator> FindLeaving(absl::string_view name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Moves to the next state; a record that is gone is removed.
  Remains Apply(Records::iterator record, AdapterEvent event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Begins an unload, and ends it if nobody uses the adapter.
  Remains StartUnload(Records::iterator record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Lets the memory go, or hands it over to the first who waits for the unload;
  // the others hear of it, too.
  void Settle(Remains remains) const ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<AdapterCache> cache_;
  mutable absl::Mutex mu_;
  Records records_ ABSL_GUARDED_BY(mu_);
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  int64_t uses_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_
