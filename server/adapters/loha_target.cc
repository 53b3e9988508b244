#include <cstdint>
#include <utility>
#include <vector>

#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// One of the two matrices that are multiplied element by element.
struct Side {
  KeyPart a_part;
  KeyPart b_part;
  KeyPart t_part;
  FactorRole a_role;
  FactorRole b_role;
  FactorRole t_role;
};

constexpr Side kSides[] = {
    {KeyPart::kHadaW1A, KeyPart::kHadaW1B, KeyPart::kHadaT1,
     FactorRole::kHadaW1A, FactorRole::kHadaW1B, FactorRole::kHadaT1},
    {KeyPart::kHadaW2A, KeyPart::kHadaW2B, KeyPart::kHadaT2,
     FactorRole::kHadaW2A, FactorRole::kHadaW2B, FactorRole::kHadaT2},
};

// OneTrainer's w_b of a convolution has the kernel's shape, LyCORIS' is flat.
absl::Status AddPlain(const Side& side, const Shape& weight, const Dim& rank,
                      TargetBuilder& builder) {
  GRAFT_RETURN_IF_ERROR(
      builder.Add(side.a_part, side.a_role, {weight[0], rank}));
  std::vector<Dim> kernel(weight.begin(), weight.end());
  kernel[0] = rank;
  return builder.Add(side.b_part, side.b_role, {rank, RowLength(weight)},
                     std::move(kernel));
}

// With a Tucker core w_a is transposed.
absl::Status AddTucker(const Side& side, const Shape& weight, const Dim& rank,
                       TargetBuilder& builder) {
  GRAFT_RETURN_IF_ERROR(
      builder.Add(side.a_part, side.a_role, {rank, weight[0]}));
  GRAFT_RETURN_IF_ERROR(
      builder.Add(side.b_part, side.b_role, {rank, weight[1]}));
  return builder.Add(side.t_part, side.t_role,
                     {rank, rank, weight[2], weight[3]});
}

}  // namespace

absl::StatusOr<ModuleChange> MakeLoha(const KeyGroup& group,
                                      const AdapterConfig& config) {
  GRAFT_RETURN_IF_ERROR(
      RequireParts(group, {KeyPart::kHadaW1A, KeyPart::kHadaW1B,
                           KeyPart::kHadaW2A, KeyPart::kHadaW2B}));
  const KeyedTensor* const t1 = group.Find(KeyPart::kHadaT1);
  const bool tucker = t1 != nullptr || group.Find(KeyPart::kHadaT2) != nullptr;
  if (tucker) {
    GRAFT_RETURN_IF_ERROR(
        RequireParts(group, {KeyPart::kHadaT1, KeyPart::kHadaT2}));
  }
  GRAFT_ASSIGN_OR_RETURN(const Shape weight, MatrixShape(group, "LoHa"));
  if (tucker && weight.size() != 4) {
    return ShapeMismatch(group, *t1,
                         "no \"hada_t1\", which is for larger kernels,");
  }
  TargetBuilder builder(group, AdapterAlgorithm::kLoha);
  int64_t rank = 0;
  for (const Side& side : kSides) {
    GRAFT_RETURN_IF_ERROR((tucker ? AddTucker : AddPlain)(
        side, weight, Dim("rank", &rank), builder));
  }
  GRAFT_RETURN_IF_ERROR(builder.SetScale(config, rank));
  const bool no_effect = builder.HasZeroFactor();
  return ToChange(std::move(builder), "loha", no_effect);
}

}  // namespace graft
