#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_ALGORITHMS_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_ALGORITHMS_H_

#include "absl/status/statusor.h"
#include "server/adapters/adapter_config.h"
#include "server/adapters/key_groups.h"
#include "server/adapters/target_builder.h"

namespace graft {

// Tells a group's algorithm by its parts and makes the group's targets: one for
// the weight, one for the bias, or both.
//
//   ADAPTER_KIND_UNSUPPORTED  an algorithm that is not implemented, by name
//   ADAPTER_CORRUPT           parts of two algorithms, or of none
// and the errors of target_makers.h.
absl::StatusOr<ModuleChange> MakeModuleChange(const KeyGroup& group,
                                              const AdapterConfig& config);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_ALGORITHMS_H_
