#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/adapters/adapter_cache.h"
#include "server/adapters/adapter_handle.h"
#include "server/adapters/adapter_info.h"
#include "server/adapters/adapter_registry.h"
#include "server/adapters/adapter_source.h"
#include "server/common/error.h"
#include "server/common/executor.h"
#include "server/engine/engine.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {

class AdapterParser;
struct ParsedAdapter;

// What an AdapterStore has done so far, and what it holds now.
struct AdapterStoreStats {
  int64_t loads = 0;           // that made an adapter active
  int64_t loads_repeated = 0;  // that found it loaded
  int64_t loads_failed = 0;
  int64_t host_evictions = 0;    // autoloaded adapters unloaded for room
  int64_t device_evictions = 0;  // dropped from the device for room
  int64_t hits = 0;              // Acquire: it was on the device
  int64_t misses = 0;  // AcquireResident: it had to be prepared or loaded first
  // Contents, however many names they have: in host memory, and prepared.
  int64_t host_adapters = 0;
  int64_t device_adapters = 0;
  int64_t host_bytes = 0;
  int64_t device_bytes = 0;    // until the engine, too, has let go of them
  int64_t max_host_bytes = 0;  // 0: no limit
  int64_t max_device_bytes = 0;
};

// Knows which adapters are loaded, how they are named and who uses them, and
// where they are: in their files, in host memory, on the device.
//
// States of one adapter: see AdapterState. A failed load leaves no trace.
// Handles pin the content that they were given, from admission to reply:
// identity is the file's SHA-256 and the reference, never the name.
//
// Two names of one content share its memory. When the device's budget is full,
// what was not used for the longest time is dropped there, and prepared again
// from host memory for the next request that names it. When the host's is full,
// adapters that were autoloaded are unloaded; those that somebody asked for
// never are. What is pinned, in use or merged stays where it is.
//
//   GRAFT_ASSIGN_OR_RETURN(auto store, AdapterStore::Create(&source, engine));
//   store->Load({.path = "styles/ink.safetensors"});        // on an executor
//   GRAFT_ASSIGN_OR_RETURN(AdapterHandle ink, store->Acquire("ink"));
//   store->Unload("ink", UnloadMode::kWait, done);  // `done` when `ink` is
//   gone
//
// Thread-safe. No lock is held while the engine or a callback is called.
class AdapterStore {
 public:
  struct Options {
    SafetensorsFile::Limits file_limits;
    // Of contents in host memory, and of what is prepared of them on the device
    // (but for what is being prepared at this moment); 0: no limit.
    int64_t max_host_bytes = 0;
    int64_t max_device_bytes = 0;
    // A request that names NAME, which is not loaded, loads NAME.safetensors.
    bool autoload = false;
  };

  struct LoadRequest {
    std::string path = "";  // relative to the adapter directory
    std::string name = "";  // empty: the file's stem, the folder's name
    std::string expected_sha256 = "";  // empty: any
    // What a PEFT folder's keys belong to, which it does not say: "unet" or
    // "text_encoder"; empty: "unet". Part of the digest: AdapterFile::sha256.
    std::string component = "";
    bool allow_partial = false;  // take what fits, report the rest
    bool validate_only = false;  // check everything, keep nothing
    bool allow_replace = false;  // other content under this name gives way
    bool pinned = false;         // SetPinned, if it is loaded already, too
  };

  struct LoadResult {
    AdapterInfo adapter;
    bool already_loaded = false;
  };

  // Receives what the store held of an unloaded adapter on the device: an
  // object of 0 bytes if that was nothing, or if it stays for another name. No
  // handle of it lives any more; the engine may still have it merged. So the
  // memory is free once the engine has switched away and this pointer is
  // dropped.
  using UnloadDone = std::function<void(absl::StatusOr<PreparedAdapterPtr>)>;

  // What Poll has done.
  struct PollReport {
    std::vector<std::string> replaced;  // names with new content
    std::vector<std::string> unloaded;  // names whose file is gone
    // By name: files that cannot be loaded. The former content stays. What is
    // wrong with the file itself is told, and the file tried, once for each
    // version of it; after any other reason the next Poll tries again, and
    // tells of it if the reason is another. "": the directory.
    std::vector<std::pair<std::string, absl::Status>> failures;
  };

  // `source` and `engine` outlive the store. INTERNAL if the engine's modules
  // have ambiguous names.
  static absl::StatusOr<std::unique_ptr<AdapterStore>> Create(
      const AdapterSource* source, const Engine* engine,
      const Options& options);
  // Without limits.
  static absl::StatusOr<std::unique_ptr<AdapterStore>> Create(
      const AdapterSource* source, const Engine* engine);

  // REQUIRES: no call that blocks is running. Handles may live on.
  ~AdapterStore();

  AdapterStore(const AdapterStore&) = delete;
  AdapterStore& operator=(const AdapterStore&) = delete;

  // Reads, hashes, parses, checks and prepares the file, then registers it
  // under its name. Blocks on all of that, and on another load of this name:
  // call it on an executor.
  //
  // The same name and content again is OK with already_loaded. Other content is
  // ADAPTER_CONFLICT unless allow_replace: then Acquire gives the new content
  // from now on, and handles keep the former. (Its memory goes with its last
  // handle or, if it is merged, with the next switch.) A name that is being
  // unloaded is free. INVALID_FIELD (field "name", "sha256" or "component");
  // ADAPTER_CACHE_FULL (with "wanted_bytes" and "limit_bytes") if it does not
  // fit in host memory, or would not on the device were that empty;
  // ADAPTER_VERSION_MISMATCH if the file is not expected_sha256; else the
  // errors of AdapterSource::Read, SafetensorsFile::Parse, AdapterParser::Parse
  // and Engine::Prepare.
  //
  // validate_only does all checks but Prepare, conflicts included, and the
  // state in the result stays kLoading.
  absl::StatusOr<LoadResult> Load(const LoadRequest& request);

  // The same for one of many callers: while another load of this name is under
  // way, no thread waits for that. Blocks on its own load only, on this thread
  // or, after waiting, on one of `executor`; there it calls `done`, once,
  // perhaps before it returns. `executor` runs until then.
  using LoadDone = std::function<void(absl::StatusOr<LoadResult>)>;
  void Load(const LoadRequest& request, Executor* executor, LoadDone done);

  // From now on Acquire answers ADAPTER_NOT_FOUND for the name. Calls `done`
  // once: when the last handle is gone, on the thread that drops it, or before
  // this returns. kForce calls AdapterHandle::OnForcedUnload's callbacks first.
  //
  // By kForce that goes for versions that are on their way out already, too,
  // also if there is no other: `done` comes when the last version is gone, with
  // the newest.
  //
  // ADAPTER_NOT_FOUND if there is no such adapter or, but for kForce, it is
  // being unloaded already; ADAPTER_PINNED; ADAPTER_IN_USE (with "in_flight")
  // for kOnlyIfUnused when handles live. After an error nothing has changed.
  void Unload(absl::string_view name, UnloadMode mode, UnloadDone done);

  // While an adapter is pinned it cannot be unloaded, and what is prepared of
  // it stays on the device. A pin goes over to what replaces the adapter.
  // ADAPTER_NOT_FOUND.
  absl::StatusOr<AdapterInfo> SetPinned(absl::string_view name, bool pinned);

  // ADAPTER_NOT_FOUND.
  absl::StatusOr<AdapterInfo> Get(absl::string_view name) const;

  // Loading, active and unloading ones, by name, in byte order.
  std::vector<AdapterInfo> List() const;

  // Takes an adapter for one request. Does not block: with a limit for the
  // device the handle may be not resident(). ADAPTER_NOT_FOUND (with
  // "resource_type" and "resource_name"); ADAPTER_VERSION_MISMATCH if `sha256`
  // is not empty and differs.
  absl::StatusOr<AdapterHandle> Acquire(absl::string_view name,
                                        absl::string_view sha256 = "");

  // The same, but the handle is resident(), and with Options::autoload the
  // adapter need not be loaded before. Blocks on what that takes: call it on an
  // executor. Requests that want one adapter at once load and prepare it once;
  // a failure is not remembered. Errors as Acquire, Load (autoload) and
  // AdapterHandle::MakeResident.
  absl::StatusOr<AdapterHandle> AcquireResident(absl::string_view name,
                                                absl::string_view sha256 = "");

  // The same for one of many requests: while another loads or prepares the
  // adapter, no thread waits for that. Blocks on its own reading and preparing
  // only, on this thread or, after waiting, on one of `executor`; there it
  // calls `done`, once, perhaps before it returns. `executor` runs until then.
  using AcquireDone = std::function<void(absl::StatusOr<AdapterHandle>)>;
  void AcquireResident(absl::string_view name, absl::string_view sha256,
                       Executor* executor, AcquireDone done);

  // AdapterCache::CheckRoom.
  absl::Status CheckRoomOnDevice(absl::Span<const PreparedAdapterPtr> held,
                                 int64_t bytes) const {
    return cache_->CheckRoom(held, bytes);
  }

  // Drops what is prepared of the adapter that was not used for the longest
  // time, of those that are not pinned, in use or merged. False if there is
  // none.
  bool EvictFromDevice() { return cache_->EvictOne(); }

  // Looks whether files of autoloaded adapters have changed. New requests get
  // the new content, those under way finish with theirs; an adapter whose file
  // is gone is unloaded when nobody uses it. What is unloaded meanwhile stays
  // so. Without the adapter directory
  // nothing is done. Leaves the rest alone once `stopping` is true (null:
  // never). Blocks: call it on an executor, one call at a time.
  PollReport Poll(const std::function<bool()>& stopping = nullptr);

  AdapterStoreStats stats() const;

 private:
  // Why something is loaded.
  enum class LoadCause { kAsked, kFirstUse, kFileChanged };

  // A name that is taken for one load.
  class Reservation;

  // One call of AcquireResident.
  struct Acquisition {
    std::string name;
    std::string sha256;
    Executor* executor = nullptr;  // this and `done` null: the caller waits
    AcquireDone done = nullptr;
    AdapterHandle handle = {};  // empty until the adapter is loaded
    bool missed = false;        // it was not on the device at first
  };

  AdapterStore(const AdapterSource* source, const Engine* engine,
               const Options& options, std::unique_ptr<AdapterParser> parser);

  // Load, for whatever cause. While another load of this name is under way,
  // waits, or, with `again`, returns nullopt, and `again` is called afterwards.
  std::optional<absl::StatusOr<LoadResult>> LoadFor(
      LoadCause cause, const LoadRequest& request,
      const AdapterCache::Continuation& again);

  // The id of a load of `path` under `name`; `again` as above.
  std::optional<int64_t> Reserve(const std::string& name,
                                 const std::string& path,
                                 const AdapterCache::Continuation& again);

  // LoadFor, for `name`, which CheckRequest gave. `reservation`: of it; null
  // for validate_only. `handle`, if not null, becomes one of what was loaded;
  // it stays empty if that was already_loaded.
  absl::StatusOr<LoadResult> LoadReserved(LoadCause cause,
                                          const LoadRequest& request,
                                          const std::string& name,
                                          Reservation* reservation,
                                          AdapterHandle* handle);

  // The file at `request.path`, if it is the expected one and does not conflict
  // with what is `active` under the name.
  absl::StatusOr<AdapterFile> ReadFor(const LoadRequest& request,
                                      const std::optional<AdapterInfo>& active);

  // The content of `file`: the one in memory, else parsed and put there, for
  // which autoloaded adapters give way.
  absl::StatusOr<AdapterContentPtr> GetContent(const AdapterFile& file,
                                               const LoadRequest& request);
  absl::StatusOr<AdapterContentPtr> Insert(AdapterContent content,
                                           const std::string& path);

  // Whether so many bytes fit in host memory, if all gives way there that can.
  bool CanHold(int64_t bytes) const;

  // Checks the content of a file against its format and the base.
  absl::StatusOr<ParsedAdapter> Parse(const AdapterFile& file,
                                      const LoadRequest& request) const;

  // Takes `acquisition` as far as it goes. `again` as above. After nullopt the
  // acquisition is in other hands.
  std::optional<absl::Status> TryAcquire(
      Acquisition& acquisition, const AdapterCache::Continuation& again);
  // The same, and ends it or lets it go on later.
  void GoOn(const std::shared_ptr<Acquisition>& acquisition);

  // Loads NAME.safetensors for its first request, whose handle it sets.
  std::optional<absl::Status> Autoload(Acquisition& acquisition,
                                       const AdapterCache::Continuation& again);

  // Loads what has changed in the file of an autoloaded adapter. Returns what
  // has failed and may not the next time.
  absl::Status Refresh(const AdapterRegistry::Watched& watched,
                       PollReport& report);

  void CountLoad(const absl::StatusOr<LoadResult>& result);

  const AdapterSource* const source_;
  const Options options_;
  const std::unique_ptr<const AdapterParser> parser_;
  // Shared with the handles and contents.
  const std::shared_ptr<AdapterCache> cache_;
  const std::shared_ptr<AdapterRegistry> registry_;

  std::map<std::string, ErrorReason> failing_;  // as of the last Poll, by name

  std::atomic<int64_t> loads_{0};
  std::atomic<int64_t> loads_repeated_{0};
  std::atomic<int64_t> loads_failed_{0};
  std::atomic<int64_t> host_evictions_{0};
  std::atomic<int64_t> hits_{0};
  std::atomic<int64_t> misses_{0};
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_
