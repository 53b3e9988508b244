#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_CONFIG_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_CONFIG_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "re2/re2.h"

namespace graft {

// The LoRA configuration that diffusers stores beside the tensors, in the
// metadata entry "lora_adapter_metadata": one flat JSON object whose keys carry
// the component, as in "unet.lora_alpha". Files of a bare model have keys
// without one. Immutable, thread-safe.
class AdapterConfig {
 public:
  // The configuration in `metadata`; an empty one where there is none.
  // ADAPTER_CORRUPT if it is there and not understood: a wrong strength would
  // go unnoticed.
  static absl::StatusOr<AdapterConfig> Parse(
      const std::map<std::string, std::string>& metadata);

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
  };

  // The configuration for `module`; null if there is none. `path` becomes its
  // path inside the component.
  const Component* Find(absl::string_view module,
                        absl::string_view& path) const;

  std::map<std::string, Component> components_;  // "": without component
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_CONFIG_H_
