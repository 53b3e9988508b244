#ifndef GRAFT_SERVER_WEIGHT_EXPORT_H_
#define GRAFT_SERVER_WEIGHT_EXPORT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/daemon_options.h"
#include "server/engine/engine.h"

namespace graft {

// One adapter of `graftd --export`.
struct ExportedAdapter {
  std::string name;  // of NAME.safetensors in the top folder of --adapter_dir
  double weight = 1.0;
  double text_encoder_weight = 1.0;

  bool operator==(const ExportedAdapter& other) const {
    return name == other.name && weight == other.weight &&
           text_encoder_weight == other.text_encoder_weight;
  }
};

// "ink=0.8,night=1:0.5": NAME[=WEIGHT[:TEXT_ENCODER_WEIGHT]] with commas
// between. Empty: no adapter. INVALID_FIELD (field "export") says what is
// wrong.
absl::StatusOr<std::vector<ExportedAdapter>> ParseExportList(
    absl::string_view text);

// Whether `file` can be written to: INVALID_FIELD (field "export_to") unless it
// ends in ".safetensors" and its folder exists. Better now than after the base
// is loaded.
absl::Status CheckExportFile(const std::string& file);

// Loads the adapters from options.adapter_dir, merges them into the weights of
// `engine` and writes these to `file`, with the SHA-256 of base and adapters
// and the weights in its metadata. Returns the line to print. Errors of
// AdapterStore::Load, of Engine::SwitchAdapters and of Engine::ExportWeights.
absl::StatusOr<std::string> ExportMergedWeights(
    const std::vector<ExportedAdapter>& adapters, const std::string& file,
    const DaemonOptions& options, Engine& engine);

}  // namespace graft

#endif  // GRAFT_SERVER_WEIGHT_EXPORT_H_
