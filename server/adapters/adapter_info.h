#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_INFO_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_INFO_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft {

// How the tensor keys of a file fitted the base. Names are escaped: they may be
// shown.
struct KeyReport {
  int matched = 0;      // used
  int unmatched = 0;    // left out, as the caller allowed
  int not_applied = 0;  // known and of no use here, such as bundled embeddings
  std::vector<std::string> unmatched_keys;    // the first 32
  std::vector<std::string> not_applied_keys;  // the first 32
};

// What the content of a file is, whatever its name.
struct AdapterReport {
  std::string format;  // "kohya", "diffusers", "peft", "mixed"
  // "diff", "dora" (beside what it is built on), "glora", "ia3", "locon",
  // "loha", "lokr", "lora", "norm", "oft", "boft"; sorted. "locon" stands for a
  // LoRA of which any module is a k x k convolution, linear ones included.
  std::vector<std::string> algorithms;
  int max_rank = 0;
  int unet_targets = 0;          // modules changed
  int text_encoder_targets = 0;  // modules changed
  KeyReport keys;
  std::vector<std::string> notes;  // what a user should know, one sentence each
  std::vector<std::string> trigger_words;  // from the metadata
  std::string base_hint;  // the base it was trained on, from the metadata
  std::map<std::string, std::string> metadata;  // "__metadata__", escaped
};

// The life of one adapter under one name.
enum class AdapterState {
  // Its file is being read and checked; requests cannot name it yet.
  kLoading,
  // Requests can name it.
  kActive,
  // Waits for the requests that use it; new ones cannot name it.
  kUnloading,
  // Nobody uses it and its memory is handed back; the store forgets it.
  kGone,
};

// What moves an adapter from one state to the next.
enum class AdapterEvent {
  kLoaded,       // read, checked and prepared
  kLoadFailed,   // refused
  kUnloadAsked,  // by a caller, or because other content replaces it
  kLastUseOver,  // the last handle is gone, or there was none
};

// The state after `event`; nullopt where `event` cannot happen in `state`. The
// one place where states change.
std::optional<AdapterState> NextAdapterState(AdapterState state,
                                             AdapterEvent event);

// "loading", "active", "unloading", "gone".
absl::string_view AdapterStateName(AdapterState state);

// Where an adapter's weights are.
enum class AdapterResidency {
  kDisk,    // in its file alone, which is being read
  kHost,    // in host memory too
  kDevice,  // and prepared on the device: a request can run with it at once
};

// "disk", "host", "device".
absl::string_view AdapterResidencyName(AdapterResidency residency);

// One adapter as the store knows it at one moment. While it loads, only name,
// state and path are set.
struct AdapterInfo {
  std::string name;
  AdapterState state = AdapterState::kLoading;
  std::string path;    // relative to the adapter directory, as it was asked for
  std::string sha256;  // of the file; serves as the etag too
  int64_t size_bytes = 0;    // of the file
  int64_t host_bytes = 0;    // of its weights in host memory
  int64_t device_bytes = 0;  // of the prepared adapter, also when it is dropped
  AdapterResidency residency = AdapterResidency::kDisk;
  bool pinned = false;      // AdapterStore::SetPinned
  bool autoloaded = false;  // by a request that named it, by nobody since
  AdapterReport report;
  absl::Time load_time = absl::InfinitePast();
  absl::Time last_use_time = absl::InfinitePast();  // InfinitePast: never used
  int64_t use_count = 0;                            // requests so far
  int in_flight = 0;                                // handles that live now
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_INFO_H_
