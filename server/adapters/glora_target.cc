#include <cstdint>
#include <utility>
#include <vector>

#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// The first layout has the factors the other way round: a1 is [r, i]. A file
// that could be either is in the present one.
bool IsFirstLayout(const KeyGroup& group, int64_t in) {
  const auto dim = [&group](KeyPart part, size_t axis) {
    const Shape& shape = group.Find(part)->tensor.shape;
    return axis < shape.size() ? shape[axis] : -1;
  };
  const int64_t rank = dim(KeyPart::kGloraA1, 0);
  return rank != in && dim(KeyPart::kGloraA1, 1) == in &&
         rank == dim(KeyPart::kGloraA2, 1) &&
         rank == dim(KeyPart::kGloraB1, 0) && rank == dim(KeyPart::kGloraB2, 1);
}

}  // namespace

absl::StatusOr<ModuleChange> MakeGlora(const KeyGroup& group,
                                       const AdapterConfig& config) {
  GRAFT_RETURN_IF_ERROR(
      RequireParts(group, {KeyPart::kGloraA1, KeyPart::kGloraA2,
                           KeyPart::kGloraB1, KeyPart::kGloraB2}));
  GRAFT_ASSIGN_OR_RETURN(const Shape weight, MatrixShape(group, "GLoRA"));
  if (IsFirstLayout(group, weight[1])) {
    return GroupError(ErrorReason::kAdapterKindUnsupported, group,
                      "GLoRA of the first layout is not supported; save the "
                      "adapter with a recent version of its trainer");
  }
  TargetBuilder builder(group, AdapterAlgorithm::kGlora);
  int64_t size = 0;
  const Dim rank("rank", &size);
  const int64_t in = weight[1];
  std::vector<Dim> b2(weight.begin(), weight.end());
  b2[0] = rank;
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kGloraA1, FactorRole::kGloraA1, {in, rank}));
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kGloraA2, FactorRole::kGloraA2, {rank, in}));
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kGloraB1, FactorRole::kGloraB1, {weight[0], rank}));
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kGloraB2, FactorRole::kGloraB2, std::move(b2)));
  GRAFT_RETURN_IF_ERROR(builder.SetScale(config, size));
  const bool no_effect = (builder.IsZero(FactorRole::kGloraA1) ||
                          builder.IsZero(FactorRole::kGloraA2)) &&
                         (builder.IsZero(FactorRole::kGloraB1) ||
                          builder.IsZero(FactorRole::kGloraB2));
  return ToChange(std::move(builder), "glora", no_effect);
}

}  // namespace graft
