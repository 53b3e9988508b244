#ifndef GRAFT_SERVER_ADAPTERS_LORA_TARGET_H_
#define GRAFT_SERVER_ADAPTERS_LORA_TARGET_H_

#include "absl/status/statusor.h"
#include "server/adapters/adapter_config.h"
#include "server/adapters/key_groups.h"
#include "server/engine/adapter_weights.h"

namespace graft {

// One module's LoRA, checked, and what the checks noticed.
struct LoraTarget {
  AdapterTarget target;
  bool zero_alpha = false;  // alpha is 0, which means a scale of 1
  bool no_effect = false;   // the change is zero
};

// Checks that a group is a complete LoRA or LoCon that fits its module, with
// finite values, and works its scale out. The factors' shapes come out as
// AdapterAlgorithm::kLora says, whichever of the equivalent ones the file has.
//
//   ADAPTER_CORRUPT           incomplete, rank 0, ranks that differ, no floats
//   ADAPTER_BASE_MISMATCH     shapes that do not fit the module
//   ADAPTER_KIND_UNSUPPORTED  a norm, float8, a scale of its own
//   ADAPTER_NON_FINITE        NaN or infinity in a factor or in alpha
absl::StatusOr<LoraTarget> MakeLoraTarget(const KeyGroup& group,
                                          const AdapterConfig& config);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_LORA_TARGET_H_
