#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// A switch: any integer, float or boolean that is 0 or 1.
absl::StatusOr<bool> ReadOnInput(const KeyGroup& group) {
  KeyedTensor flag = *group.Find(KeyPart::kIa3OnInput);
  // One byte, too.
  if (flag.tensor.dtype == TensorDtype::kBool) {
    flag.tensor.dtype = TensorDtype::kU8;
  }
  GRAFT_ASSIGN_OR_RETURN(const double value, ReadScalarPart(group, flag));
  if (value == 0 || value == 1) return value == 1;
  return TensorError(ErrorReason::kAdapterCorrupt, group, flag,
                     absl::StrCat("is ", value, ", neither 0 nor 1"));
}

}  // namespace

absl::StatusOr<ModuleChange> MakeIa3(const KeyGroup& group,
                                     const AdapterConfig& /*config*/) {
  GRAFT_RETURN_IF_ERROR(
      RequireParts(group, {KeyPart::kIa3Weight, KeyPart::kIa3OnInput}));
  GRAFT_ASSIGN_OR_RETURN(const Shape weight, MatrixShape(group, "IA3"));
  GRAFT_ASSIGN_OR_RETURN(const bool on_input, ReadOnInput(group));
  TargetBuilder builder(group, AdapterAlgorithm::kIa3);
  builder.target().on_input = on_input;
  const int64_t width = weight[on_input ? 1 : 0];
  // Convolutions have [1, n, 1, 1], whichever axis n is of.
  const KeyedTensor& factor = *group.Find(KeyPart::kIa3Weight);
  if (factor.tensor.shape == Shape{1, width, 1, 1}) {
    GRAFT_RETURN_IF_ERROR(
        builder.AddReshaped(KeyPart::kIa3Weight, FactorRole::kIa3, {width}));
  } else {
    GRAFT_RETURN_IF_ERROR(
        builder.Add(KeyPart::kIa3Weight, FactorRole::kIa3, {width}));
  }
  const bool no_effect = builder.HasZeroFactor();
  return ToChange(std::move(builder), "ia3", no_effect);
}

}  // namespace graft
