#include <cstdint>
#include <utility>
#include <vector>

#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// PEFT's LoRA on an embedding has other keys, and the magnitude of one would
// run along another axis; so what comes here is ComfyUI's, as for any other
// matrix.
absl::StatusOr<Shape> LoraShape(const KeyGroup& group) {
  if (group.module->kind == ModuleKind::kEmbedding &&
      group.Find(KeyPart::kMagnitude) == nullptr &&
      group.Find(KeyPart::kMagnitudeVector) == nullptr) {
    return group.module->weight_shape;
  }
  return MatrixShape(group, "LoRA");
}

// With a Tucker core the kernel is in the core. Without one its rows may be
// flat in "lora_down", as ComfyUI trains it.
absl::Status AddFactors(const KeyGroup& group, const Shape& weight,
                        const Dim& rank, TargetBuilder& builder) {
  const KeyedTensor* const mid = group.Find(KeyPart::kMid);
  if (mid != nullptr && weight.size() != 4) {
    return ShapeMismatch(group, *mid,
                         "no \"lora_mid\", which is for larger kernels,");
  }
  std::vector<Dim> down(weight.begin(), weight.end());
  down[0] = rank;
  std::vector<Dim> flat = {rank, RowLength(weight)};
  if (mid != nullptr) {
    down.erase(down.begin() + 2, down.end());
    flat.clear();
  }
  GRAFT_RETURN_IF_ERROR(builder.Add(KeyPart::kDown, FactorRole::kDown,
                                    std::move(down), std::move(flat)));
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kUp, FactorRole::kUp, {weight[0], rank}));
  if (mid == nullptr) return absl::OkStatus();
  return builder.Add(KeyPart::kMid, FactorRole::kMid,
                     {rank, rank, weight[2], weight[3]});
}

}  // namespace

absl::StatusOr<ModuleChange> MakeLora(const KeyGroup& group,
                                      const AdapterConfig& config) {
  GRAFT_RETURN_IF_ERROR(RequireParts(group, {KeyPart::kDown, KeyPart::kUp}));
  GRAFT_ASSIGN_OR_RETURN(const Shape weight, LoraShape(group));
  TargetBuilder builder(group, AdapterAlgorithm::kLora);
  int64_t rank = 0;
  GRAFT_RETURN_IF_ERROR(AddFactors(group, weight, Dim("rank", &rank), builder));
  GRAFT_RETURN_IF_ERROR(builder.SetScale(config, rank));
  const bool no_effect = builder.HasZeroFactor();
  ModuleChange change = ToChange(
      std::move(builder), weight.size() == 4 ? "locon" : "lora", no_effect);
  if (group.Find(KeyPart::kUpBias) != nullptr) {
    GRAFT_RETURN_IF_ERROR(
        AddBias(group, KeyPart::kUpBias, change.targets[0].scale, change));
  }
  return change;
}

}  // namespace graft
