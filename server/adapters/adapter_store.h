#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/adapters/adapter_handle.h"
#include "server/adapters/adapter_source.h"
#include "server/engine/engine.h"

namespace graft {

// Knows which adapters are loaded, how they are named and who uses them.
//
// States of one name: kLoading -> kActive -> kUnloading -> gone. A failed load
// leaves no trace. Handles keep the adapter's memory alive from admission to
// reply (R4: identity by SHA-256 and reference, never by name).
//
// Thread-safe. Load() blocks on file reading and parsing: call it on an
// executor, never on a gRPC or owner thread.
class AdapterStore {
 public:
  struct LoadRequest {
    std::string path;  // relative to the adapter directory
    std::string name;  // empty: the file's stem
    std::string expected_sha256;  // empty: any; else ADAPTER_VERSION_MISMATCH
    bool allow_partial = false;   // merge what fits, report the rest
    bool validate_only = false;   // check everything, keep nothing
    bool allow_replace = false;   // other content under this name replaces it
  };
  struct LoadResult {
    AdapterInfo adapter;
    bool already_loaded = false;
  };
  struct UnloadResult {
    std::string sha256;
    int64_t freed_bytes = 0;
  };
  using UnloadDone = std::function<void(absl::StatusOr<UnloadResult>)>;

  // `source` and `engine` outlive the store.
  AdapterStore(const AdapterSource* source, const Engine* engine);
  ~AdapterStore();

  // Reads, hashes, parses, checks and prepares the file, then registers it
  // under its name. The same name and content again is OK with already_loaded;
  // other content is ADAPTER_CONFLICT unless allow_replace. Two loads of one
  // name at once read the file once or agree on the result. Errors: the error
  // table's rows for files and adapters.
  absl::StatusOr<LoadResult> Load(const LoadRequest& request);

  // From now on Acquire answers ADAPTER_NOT_FOUND. When the last handle is
  // gone, `done` is called (perhaps before Unload returns) with the engine's
  // hold on the memory still to be dropped by the caller: see `prepared`.
  // ADAPTER_NOT_FOUND at once if there is no such adapter. ADAPTER_IN_USE if it
  // is in use and `wait` is false.
  void Unload(const std::string& name, bool wait,
              std::function<void(absl::StatusOr<PreparedAdapterPtr>)> done);

  absl::StatusOr<AdapterInfo> Get(absl::string_view name) const;

  // By name, in byte order.
  std::vector<AdapterInfo> List() const;

  // A reference for one request. ADAPTER_NOT_FOUND (with ResourceInfo-like
  // metadata "resource_type"/"resource_name"); ADAPTER_VERSION_MISMATCH if
  // `sha256` is not empty and differs.
  absl::StatusOr<AdapterHandle> Acquire(absl::string_view name,
                                        absl::string_view sha256 = "");
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_STORE_H_
