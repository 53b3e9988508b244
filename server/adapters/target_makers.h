#ifndef GRAFT_SERVER_ADAPTERS_TARGET_MAKERS_H_
#define GRAFT_SERVER_ADAPTERS_TARGET_MAKERS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/adapters/adapter_config.h"
#include "server/adapters/key_groups.h"
#include "server/adapters/target_builder.h"

// One function per algorithm. Each checks that a group is complete, fits its
// module and has finite values, and brings it into the shapes that FactorRole
// documents, whichever of the equivalent ones the file has. All answer
//
//   ADAPTER_CORRUPT           incomplete or contradictory, a rank of 0, no
//                             floats
//   ADAPTER_BASE_MISMATCH     shapes that do not fit the module
//   ADAPTER_KIND_UNSUPPORTED  a module that the algorithm cannot change, a
//                             variant that is not implemented
//   ADAPTER_NON_FINITE        NaN or infinity in a factor or in alpha
namespace graft {

// LoRA, LoCon, with and without Tucker core; with PEFT's bias a second target.
absl::StatusOr<ModuleChange> MakeLora(const KeyGroup& group,
                                      const AdapterConfig& config);

absl::StatusOr<ModuleChange> MakeLoha(const KeyGroup& group,
                                      const AdapterConfig& config);

absl::StatusOr<ModuleChange> MakeLokr(const KeyGroup& group,
                                      const AdapterConfig& config);

// Full difference of a weight, of any kind of module.
absl::StatusOr<ModuleChange> MakeDiff(const KeyGroup& group,
                                      const AdapterConfig& config);

// Difference of a norm's weight, bias, or both.
absl::StatusOr<ModuleChange> MakeNormDiff(const KeyGroup& group,
                                          const AdapterConfig& config);

absl::StatusOr<ModuleChange> MakeIa3(const KeyGroup& group,
                                     const AdapterConfig& config);

absl::StatusOr<ModuleChange> MakeGlora(const KeyGroup& group,
                                       const AdapterConfig& config);

// OFT and BOFT, told apart by the blocks' dimensions. ADAPTER_KIND_UNSUPPORTED
// for blocks of more than 2048 rows: inverting them takes too long.
absl::StatusOr<ModuleChange> MakeOft(const KeyGroup& group,
                                     const AdapterConfig& config);

// Adds a target for the module's bias to `change`: the tensor of `part`, times
// `scale`. ADAPTER_KIND_UNSUPPORTED if the base's module has no bias.
absl::Status AddBias(const KeyGroup& group, KeyPart part, double scale,
                     ModuleChange& change);

// Adds the magnitude (DoRA) to the weight's target in `change`.
absl::Status AddMagnitude(const KeyGroup& group, ModuleChange& change);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_TARGET_MAKERS_H_
