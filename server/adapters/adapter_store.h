#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_handle.h"
#include "server/adapters/adapter_info.h"
#include "server/adapters/adapter_source.h"
#include "server/engine/engine.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {

class AdapterParser;
class AdapterRegistry;
struct ParsedAdapter;

// Knows which adapters are loaded, how they are named and who uses them.
//
// States of one adapter: see AdapterState. A failed load leaves no trace.
// Handles pin the content that they were given, from admission to reply:
// identity is the file's SHA-256 and the reference, never the name.
//
//   GRAFT_ASSIGN_OR_RETURN(auto store, AdapterStore::Create(&source, engine));
//   store->Load({.path = "styles/ink.safetensors"});        // on an executor
//   GRAFT_ASSIGN_OR_RETURN(AdapterHandle ink, store->Acquire("ink"));
//   store->Unload("ink", /*wait=*/true, done);   // `done` when `ink` is
//   dropped
//
// Thread-safe. No lock is held while the engine or a callback is called.
class AdapterStore {
 public:
  struct Options {
    SafetensorsFile::Limits file_limits;
  };

  struct LoadRequest {
    std::string path = "";             // relative to the adapter directory
    std::string name = "";             // empty: the file's stem
    std::string expected_sha256 = "";  // empty: any
    bool allow_partial = false;        // take what fits, report the rest
    bool validate_only = false;        // check everything, keep nothing
    bool allow_replace = false;  // other content under this name gives way
  };

  struct LoadResult {
    AdapterInfo adapter;
    bool already_loaded = false;
  };

  // Receives what the store held of an unloaded adapter. No handle of it lives
  // any more; the engine may still have it merged. So the memory is free once
  // the engine has switched away and this pointer is dropped.
  using UnloadDone = std::function<void(absl::StatusOr<PreparedAdapterPtr>)>;

  // `source` and `engine` outlive the store. INTERNAL if the engine's modules
  // have ambiguous names.
  static absl::StatusOr<std::unique_ptr<AdapterStore>> Create(
      const AdapterSource* source, const Engine* engine,
      const Options& options = Options());

  // REQUIRES: no call of Load is running. Handles may live on.
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
  // unloaded is free. INVALID_FIELD (field "name" or "sha256");
  // ADAPTER_VERSION_MISMATCH if the file is not expected_sha256; else the
  // errors of AdapterSource::Read, SafetensorsFile::Parse, AdapterParser::Parse
  // and Engine::Prepare.
  //
  // validate_only does all checks but Prepare, conflicts included, and the
  // state in the result stays kLoading.
  absl::StatusOr<LoadResult> Load(const LoadRequest& request);

  // From now on Acquire answers ADAPTER_NOT_FOUND for the name. Calls `done`
  // once: when the last handle is gone, on the thread that drops it, or before
  // this returns. ADAPTER_NOT_FOUND if there is no such adapter or it is being
  // unloaded already; ADAPTER_IN_USE (with "in_flight") if `wait` is false and
  // handles live, and then nothing has changed.
  void Unload(absl::string_view name, bool wait, UnloadDone done);

  // ADAPTER_NOT_FOUND.
  absl::StatusOr<AdapterInfo> Get(absl::string_view name) const;

  // Loading, active and unloading ones, by name, in byte order.
  std::vector<AdapterInfo> List() const;

  // Pins an adapter for one request. ADAPTER_NOT_FOUND (with "resource_type"
  // and "resource_name"); ADAPTER_VERSION_MISMATCH if `sha256` is not empty and
  // differs.
  absl::StatusOr<AdapterHandle> Acquire(absl::string_view name,
                                        absl::string_view sha256 = "");

 private:
  AdapterStore(const AdapterSource* source, const Engine* engine,
               const Options& options, std::unique_ptr<AdapterParser> parser);

  // Checks the content of a file against its format and the base.
  absl::StatusOr<ParsedAdapter> Parse(const AdapterFile& file,
                                      const LoadRequest& request) const;

  const AdapterSource* const source_;
  const Engine* const engine_;
  const Options options_;
  const std::unique_ptr<const AdapterParser> parser_;
  const std::shared_ptr<AdapterRegistry> registry_;  // shared with the handles
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_
