#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_CONFIG_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_CONFIG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"
#include "re2/re2.h"

namespace graft {

// The LoRA configuration that PEFT stores in a file of its own, or diffusers
// beside the tensors, in the metadata entry "lora_adapter_metadata": one flat
// JSON object whose keys carry the component, as in "unet.lora_alpha". Files of
// a bare model have keys without one. Immutable, thread-safe.
//
// What a configuration can cost is bounded, as it comes with the adapter: its
// text has at most kMaxBytes, 16384 keys and 32768 values; "alpha_pattern" has,
// in all components together, at most 1024 regular expressions of at most 512
// bytes, whose programs have at most 65536 instructions. PEFT's, with a pattern
// for each module of a base, have about half as much.
class AdapterConfig {
 public:
  static constexpr int64_t kMaxBytes = int64_t{256} << 10;

  // The configuration in `metadata`; an empty one where there is none.
  // ADAPTER_CORRUPT if it is there and not understood (a wrong strength would
  // go unnoticed), or above the bounds; ADAPTER_KIND_UNSUPPORTED, with its
  // name, for an initialisation that changed the base's weights.
  static absl::StatusOr<AdapterConfig> Parse(
      const std::map<std::string, std::string>& metadata);

  // The same from the text of a PEFT folder's adapter_config.json, which holds
  // for all modules. ADAPTER_KIND_UNSUPPORTED, with its name, for anything but
  // a LoRA whose tensors are all that it consists of; ADAPTER_CORRUPT as above.
  static absl::StatusOr<AdapterConfig> ParsePeft(absl::string_view text);

  // True if the LoRA of a module, by its canonical name, is a DoRA, and if it
  // has a bias: such a module must have the tensors that go with it.
  bool UsesDora(absl::string_view module) const;
  bool UsesBias(absl::string_view module) const;

  // alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA
  // (arXiv:2312.03732), of a module by its canonical name; nullopt if the
  // configuration does not say, or says 0.
  std::optional<double> Scale(absl::string_view module, int rank) const;

 private:
  struct Pattern {
    std::shared_ptr<const RE2> expression;
    double alpha = 0;
  };
  struct Component {
    std::optional<double> alpha;
    std::vector<Pattern> alpha_patterns;  // the first that matches counts
    bool rank_stabilised = false;
    bool uses_dora = false;
    bool uses_bias = false;
  };

  // Puts one member of a configuration into `component`; those that say nothing
  // about the result are skipped. Errors as of Parse().
  absl::Status ReadEntry(absl::string_view name,
                         const nlohmann::ordered_json& value,
                         Component& component);
  absl::Status ReadPatterns(const nlohmann::ordered_json& value,
                            Component& component);

  // The configuration for `module`; null if there is none. `path` becomes its
  // path inside the component.
  const Component* Find(absl::string_view module,
                        absl::string_view& path) const;

  std::map<std::string, Component> components_;  // "": without component
  // Of all components' patterns.
  int num_patterns_ = 0;
  int program_size_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_CONFIG_H_
