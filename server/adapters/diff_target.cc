#include <cstdint>
#include <utility>
#include <vector>

#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// The whole weight of the module.
absl::StatusOr<ModuleChange> MakeWeight(const KeyGroup& group, KeyPart part,
                                        absl::string_view algorithm) {
  const std::vector<int64_t>& shape = group.module->weight_shape;
  TargetBuilder builder(group, AdapterAlgorithm::kDiff);
  GRAFT_RETURN_IF_ERROR(builder.Add(
      part, FactorRole::kDiff, std::vector<Dim>(shape.begin(), shape.end())));
  const bool no_effect = builder.HasZeroFactor();
  return ToChange(std::move(builder), algorithm, no_effect);
}

}  // namespace

absl::StatusOr<ModuleChange> MakeDiff(const KeyGroup& group,
                                      const AdapterConfig& /*config*/) {
  return MakeWeight(group, KeyPart::kDiff, "diff");
}

absl::StatusOr<ModuleChange> MakeNormDiff(const KeyGroup& group,
                                          const AdapterConfig& /*config*/) {
  if (group.module->kind != ModuleKind::kNorm) {
    return GroupError(ErrorReason::kAdapterBaseMismatch, group,
                      "a norm in the adapter, but not in the base");
  }
  ModuleChange change;
  change.no_effect = true;
  if (group.Find(KeyPart::kNormDiff) != nullptr) {
    GRAFT_ASSIGN_OR_RETURN(change,
                           MakeWeight(group, KeyPart::kNormDiff, "norm"));
  }
  if (group.Find(KeyPart::kNormDiffBias) != nullptr) {
    GRAFT_RETURN_IF_ERROR(
        AddBias(group, KeyPart::kNormDiffBias, /*scale=*/1, change));
  }
  change.algorithms = {"norm"};
  return change;
}

absl::Status AddBias(const KeyGroup& group, KeyPart part, double scale,
                     ModuleChange& change) {
  const KeyedTensor* const tensor = group.Find(part);
  if (!group.module->has_bias) {
    return TensorError(ErrorReason::kAdapterKindUnsupported, group, *tensor,
                       "the base's module has no bias, and one cannot be "
                       "added; train the adapter without it");
  }
  TargetBuilder builder(group, AdapterAlgorithm::kDiff, ParameterKind::kBias);
  GRAFT_RETURN_IF_ERROR(
      builder.Add(part, FactorRole::kDiff, {group.module->weight_shape[0]}));
  builder.target().scale = scale;
  change.no_effect = change.no_effect && builder.HasZeroFactor();
  change.targets.push_back(std::move(builder.target()));
  return absl::OkStatus();
}

}  // namespace graft
