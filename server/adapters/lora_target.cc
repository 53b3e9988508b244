#include "server/adapters/lora_target.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/adapters/tensor_values.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

std::string ToString(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// [a, b, 1, 1] as [a, b]: a 1x1 convolution is a linear layer.
Shape WithoutUnitKernel(Shape shape) {
  if (shape.size() == 4 && shape[2] == 1 && shape[3] == 1) shape.resize(2);
  return shape;
}

absl::Status CheckComplete(const KeyGroup& group) {
  const bool has_down = group.Find(KeyPart::kDown) != nullptr;
  const bool has_up = group.Find(KeyPart::kUp) != nullptr;
  if (has_down && has_up) return absl::OkStatus();
  const absl::string_view missing = has_down ? "its up factor is"
                                    : has_up ? "its down factor is"
                                             : "both factors are";
  return TensorError(ErrorReason::kAdapterCorrupt, group,
                     group.parts.begin()->second,
                     absl::StrCat("the module is incomplete: ", missing,
                                  " missing; save the adapter again"));
}

absl::Status CheckModuleKind(const KeyGroup& group) {
  if (group.module->kind == ModuleKind::kLinear ||
      group.module->kind == ModuleKind::kConv2d) {
    return absl::OkStatus();
  }
  return GroupError(ErrorReason::kAdapterKindUnsupported, group,
                    "neither a linear layer nor a convolution, and LoRA on "
                    "others is not supported");
}

absl::Status CheckDtype(const KeyGroup& group, const KeyedTensor& factor) {
  const TensorDtype dtype = factor.tensor.dtype;
  if (IsFloatingPoint(dtype)) return absl::OkStatus();
  const bool float8 =
      dtype == TensorDtype::kF8E4M3 || dtype == TensorDtype::kF8E5M2;
  return TensorError(float8 ? ErrorReason::kAdapterKindUnsupported
                            : ErrorReason::kAdapterCorrupt,
                     group, factor,
                     absl::StrCat("dtype ", TensorDtypeName(dtype),
                                  "; factors must be F16, BF16, F32 or F64"));
}

absl::Status ShapeMismatch(const KeyGroup& group, const KeyedTensor& factor,
                           absl::string_view expected) {
  return TensorError(
      ErrorReason::kAdapterBaseMismatch, group, factor,
      absl::StrCat("expected ", expected, " for the base's weight ",
                   ToString(group.module->weight_shape), ", found ",
                   ToString(factor.tensor.shape)));
}

// Brings both factors to [out, rank] and [rank, in(, kh, kw)], or refuses them.
absl::Status FitShapes(const KeyGroup& group, KeyedTensor& down,
                       KeyedTensor& up) {
  const Shape weight = WithoutUnitKernel(group.module->weight_shape);
  const Shape down_shape = WithoutUnitKernel(down.tensor.shape);
  const Shape up_shape = WithoutUnitKernel(up.tensor.shape);
  Shape expected_down = weight;
  if (!down_shape.empty()) expected_down[0] = down_shape[0];
  if (down_shape != expected_down) {
    const Shape tail(weight.begin() + 1, weight.end());
    return ShapeMismatch(
        group, down,
        absl::StrCat("a down factor [rank, ", absl::StrJoin(tail, ", "), "]"));
  }
  if (up_shape.size() != 2 || up_shape[0] != weight[0]) {
    return ShapeMismatch(group, up,
                         absl::StrCat("an up factor [", weight[0], ", rank]"));
  }
  const int64_t rank = down_shape[0];
  if (up_shape[1] != rank) {
    return GroupError(
        ErrorReason::kAdapterCorrupt, group,
        absl::StrCat("the down factor has rank ", rank, ", the up factor ",
                     up_shape[1], "; save the adapter again"));
  }
  if (rank == 0 || rank > std::numeric_limits<int>::max()) {
    return TensorError(ErrorReason::kAdapterCorrupt, group, down,
                       absl::StrCat("rank ", rank));
  }
  down.tensor.shape = down_shape;
  up.tensor.shape = up_shape;
  return absl::OkStatus();
}

absl::StatusOr<TensorContent> CheckValues(const KeyGroup& group,
                                          const KeyedTensor& factor) {
  const TensorContent content = ScanTensor(factor.tensor);
  if (content != TensorContent::kNonFinite) return content;
  return TensorError(ErrorReason::kAdapterNonFinite, group, factor,
                     "holds NaN, infinity or a value beyond float32; train or "
                     "save the adapter again");
}

// The number in a part that must be a scalar.
absl::StatusOr<double> Scalar(const KeyGroup& group,
                              const KeyedTensor& tensor) {
  const std::optional<double> value = ReadScalar(tensor.tensor);
  if (!value.has_value() || tensor.tensor.shape.size() > 1) {
    return TensorError(ErrorReason::kAdapterCorrupt, group, tensor,
                       absl::StrCat("expected one number, found ",
                                    TensorDtypeName(tensor.tensor.dtype), " ",
                                    ToString(tensor.tensor.shape)));
  }
  if (!std::isfinite(*value)) {
    return TensorError(ErrorReason::kAdapterNonFinite, group, tensor,
                       "NaN or infinite");
  }
  return *value;
}

// Some programs write further factors. 1 changes nothing.
absl::Status CheckFurtherFactors(const KeyGroup& group) {
  for (const KeyPart part : {KeyPart::kScale, KeyPart::kScalar}) {
    const KeyedTensor* const tensor = group.Find(part);
    if (tensor == nullptr) continue;
    GRAFT_ASSIGN_OR_RETURN(const double value, Scalar(group, *tensor));
    if (value != 1) {
      return TensorError(ErrorReason::kAdapterKindUnsupported, group, *tensor,
                         absl::StrCat("a factor of ", value,
                                      " beside alpha is not supported"));
    }
  }
  return absl::OkStatus();
}

// The file's own alpha first, then its configuration. Neither: 1, as old
// trainers meant it; an alpha of 1 would weaken the adapter by its rank.
absl::Status SetScale(const KeyGroup& group, const AdapterConfig& config,
                      LoraTarget& lora) {
  AdapterTarget& target = lora.target;
  const KeyedTensor* const alpha = group.Find(KeyPart::kAlpha);
  if (alpha != nullptr) {
    GRAFT_ASSIGN_OR_RETURN(const double value, Scalar(group, *alpha));
    lora.zero_alpha = value == 0;
    target.scale = value == 0 ? 1 : value / target.rank;
  } else {
    target.scale = config.Scale(target.module, target.rank).value_or(1);
  }
  // Also an alpha beyond float32, in which the product is computed.
  if (std::isfinite(static_cast<float>(target.scale))) return absl::OkStatus();
  return GroupError(ErrorReason::kAdapterNonFinite, group,
                    absl::StrCat("a scale of ", target.scale));
}

}  // namespace

absl::StatusOr<LoraTarget> MakeLoraTarget(const KeyGroup& group,
                                          const AdapterConfig& config) {
  GRAFT_RETURN_IF_ERROR(CheckComplete(group));
  GRAFT_RETURN_IF_ERROR(CheckModuleKind(group));
  GRAFT_RETURN_IF_ERROR(CheckFurtherFactors(group));
  KeyedTensor down = *group.Find(KeyPart::kDown);
  KeyedTensor up = *group.Find(KeyPart::kUp);
  GRAFT_RETURN_IF_ERROR(CheckDtype(group, down));
  GRAFT_RETURN_IF_ERROR(CheckDtype(group, up));
  GRAFT_RETURN_IF_ERROR(FitShapes(group, down, up));
  GRAFT_ASSIGN_OR_RETURN(const TensorContent down_content,
                         CheckValues(group, down));
  GRAFT_ASSIGN_OR_RETURN(const TensorContent up_content,
                         CheckValues(group, up));

  LoraTarget lora;
  lora.target.module = group.module->name;
  lora.target.algorithm = AdapterAlgorithm::kLora;
  lora.target.rank = static_cast<int>(down.tensor.shape[0]);
  lora.no_effect = down_content == TensorContent::kAllZero ||
                   up_content == TensorContent::kAllZero;
  GRAFT_RETURN_IF_ERROR(SetScale(group, config, lora));
  lora.target.factors.push_back(
      {FactorRole::kDown, EscapeUntrusted(down.key), std::move(down.tensor)});
  lora.target.factors.push_back(
      {FactorRole::kUp, EscapeUntrusted(up.key), std::move(up.tensor)});
  return lora;
}

}  // namespace graft
