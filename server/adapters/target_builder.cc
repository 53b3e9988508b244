#include "server/adapters/target_builder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/adapters/tensor_values.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

std::string DimsToString(const std::vector<Dim>& dims) {
  return absl::StrCat("[",
                      absl::StrJoin(dims, ", ",
                                    [](std::string* out, const Dim& dim) {
                                      absl::StrAppend(out, dim.ToString());
                                    }),
                      "]");
}

absl::Status MissingPart(const KeyGroup& group, KeyPart part) {
  return TensorError(
      ErrorReason::kAdapterCorrupt, group, group.parts.begin()->second,
      absl::StrCat("the module is incomplete: its \"", PartSuffix(part),
                   "\" is missing; save the adapter again"));
}

bool IsFloat8(TensorDtype dtype) {
  return dtype == TensorDtype::kF8E4M3 || dtype == TensorDtype::kF8E5M2;
}

absl::Status CheckDtype(const KeyGroup& group, const KeyedTensor& tensor) {
  const TensorDtype dtype = tensor.tensor.dtype;
  if (IsFloatingPoint(dtype)) return absl::OkStatus();
  return TensorError(
      IsFloat8(dtype) ? ErrorReason::kAdapterKindUnsupported
                      : ErrorReason::kAdapterCorrupt,
      group, tensor,
      absl::StrCat("dtype ", TensorDtypeName(dtype),
                   "; save the adapter in F16, BF16, F32 or F64"));
}

bool IsUnit(const Dim& dim) { return dim.is_fixed() && dim.size() == 1; }

// A size that the module's factors decide.
absl::Status Decide(const KeyGroup& group, const KeyedTensor& tensor,
                    int64_t found, Dim& dim) {
  if (found == 0 || found > std::numeric_limits<int>::max()) {
    return TensorError(ErrorReason::kAdapterCorrupt, group, tensor,
                       absl::StrCat(dim.name(), " ", found));
  }
  if (dim.size() == 0) dim.Decide(found);
  if (dim.size() == found) return absl::OkStatus();
  return TensorError(ErrorReason::kAdapterCorrupt, group, tensor,
                     absl::StrCat("its ", dim.name(), " is ", found,
                                  ", but that of the module's other factors ",
                                  dim.size(), "; save the adapter again"));
}

// Checks the tensor's shape against `dims`. What the base decides comes first:
// a file for another base is not to be called damaged.
absl::Status FitShape(const KeyGroup& group, const KeyedTensor& tensor,
                      std::vector<Dim>& dims) {
  const Shape found = WithoutUnitKernel(tensor.tensor.shape);
  const bool unit_kernel =
      dims.size() == 4 && IsUnit(dims[2]) && IsUnit(dims[3]);
  const size_t count = unit_kernel ? 2 : dims.size();
  bool fits = found.size() == count;
  for (size_t i = 0; fits && i < count; ++i) {
    fits = !dims[i].is_fixed() || dims[i].size() == found[i];
  }
  if (!fits) return ShapeMismatch(group, tensor, DimsToString(dims));
  for (size_t i = 0; i < count; ++i) {
    if (dims[i].is_fixed()) continue;
    GRAFT_RETURN_IF_ERROR(Decide(group, tensor, found[i], dims[i]));
  }
  return absl::OkStatus();
}

}  // namespace

std::string Dim::ToString() const {
  return is_fixed() ? absl::StrCat(size_) : std::string(name_);
}

std::string ShapeToString(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

Shape WithoutUnitKernel(Shape shape) {
  if (shape.size() == 4 && shape[2] == 1 && shape[3] == 1) shape.resize(2);
  return shape;
}

absl::StatusOr<Shape> MatrixShape(const KeyGroup& group,
                                  absl::string_view algorithm) {
  if (group.module->kind == ModuleKind::kLinear ||
      group.module->kind == ModuleKind::kConv2d) {
    return WithoutUnitKernel(group.module->weight_shape);
  }
  return GroupError(
      ErrorReason::kAdapterKindUnsupported, group,
      absl::StrCat("neither a linear layer nor a convolution, and ", algorithm,
                   " on others is not supported"));
}

int64_t RowLength(const Shape& weight) {
  int64_t length = 1;
  for (size_t i = 1; i < weight.size(); ++i) length *= weight[i];
  return length;
}

absl::Status RequireParts(const KeyGroup& group,
                          const std::vector<KeyPart>& parts) {
  for (const KeyPart part : parts) {
    if (group.Find(part) == nullptr) return MissingPart(group, part);
  }
  return absl::OkStatus();
}

absl::Status ShapeMismatch(const KeyGroup& group, const KeyedTensor& tensor,
                           absl::string_view expected) {
  return TensorError(
      ErrorReason::kAdapterBaseMismatch, group, tensor,
      absl::StrCat("expected ", expected, " for the base's weight ",
                   ShapeToString(group.module->weight_shape), ", found ",
                   ShapeToString(tensor.tensor.shape)));
}

absl::StatusOr<double> ReadScalarPart(const KeyGroup& group,
                                      const KeyedTensor& tensor) {
  // Files are cast to it as a whole, this part first in their order.
  if (IsFloat8(tensor.tensor.dtype)) return CheckDtype(group, tensor);
  const std::optional<double> value = ReadScalar(tensor.tensor);
  if (!value.has_value() || tensor.tensor.shape.size() > 1) {
    return TensorError(ErrorReason::kAdapterCorrupt, group, tensor,
                       absl::StrCat("expected one number, found ",
                                    TensorDtypeName(tensor.tensor.dtype), " ",
                                    ShapeToString(tensor.tensor.shape)));
  }
  if (!std::isfinite(*value)) {
    return TensorError(ErrorReason::kAdapterNonFinite, group, tensor,
                       "NaN or infinite");
  }
  return *value;
}

TargetBuilder::TargetBuilder(const KeyGroup& group, AdapterAlgorithm algorithm,
                             ParameterKind parameter)
    : group_(group) {
  target_.module = group.module->name;
  target_.parameter = parameter;
  target_.algorithm = algorithm;
}

absl::Status TargetBuilder::Add(KeyPart part, FactorRole role,
                                std::vector<Dim> dims, std::vector<Dim> other) {
  const KeyedTensor* const tensor = group_.Find(part);
  if (tensor == nullptr) return MissingPart(group_, part);
  GRAFT_RETURN_IF_ERROR(CheckDtype(group_, *tensor));
  const bool as_other =
      !other.empty() &&
      other.size() == WithoutUnitKernel(tensor->tensor.shape).size();
  GRAFT_RETURN_IF_ERROR(FitShape(group_, *tensor, as_other ? other : dims));
  Shape shape;
  for (const Dim& dim : dims) shape.push_back(dim.size());
  return AddReshaped(part, role, std::move(shape));
}

absl::Status TargetBuilder::AddReshaped(KeyPart part, FactorRole role,
                                        Shape shape) {
  const KeyedTensor* const tensor = group_.Find(part);
  if (tensor == nullptr) return MissingPart(group_, part);
  GRAFT_RETURN_IF_ERROR(CheckDtype(group_, *tensor));
  const TensorContent content = ScanTensor(tensor->tensor);
  if (content == TensorContent::kNonFinite) {
    return TensorError(
        ErrorReason::kAdapterNonFinite, group_, *tensor,
        "holds NaN, infinity or a value beyond float32; train or "
        "save the adapter again");
  }
  if (content == TensorContent::kAllZero) zero_roles_.push_back(role);
  AdapterFactor factor{role, EscapeUntrusted(tensor->key), tensor->tensor};
  factor.tensor.shape = std::move(shape);
  target_.factors.push_back(std::move(factor));
  return absl::OkStatus();
}

absl::Status TargetBuilder::SetScale(const AdapterConfig& config,
                                     int64_t rank) {
  target_.rank = static_cast<int>(rank);
  const KeyedTensor* const alpha = group_.Find(KeyPart::kAlpha);
  if (alpha != nullptr) {
    GRAFT_ASSIGN_OR_RETURN(const double value, ReadScalarPart(group_, *alpha));
    zero_alpha_ = value == 0;
    target_.scale = value == 0 ? 1 : value / target_.rank;
  } else {
    target_.scale = config.Scale(target_.module, target_.rank).value_or(1);
  }
  // Also an alpha beyond float32, in which the product is computed.
  if (std::isfinite(static_cast<float>(target_.scale))) return absl::OkStatus();
  return GroupError(ErrorReason::kAdapterNonFinite, group_,
                    absl::StrCat("a scale of ", target_.scale));
}

bool TargetBuilder::IsZero(FactorRole role) const {
  return std::find(zero_roles_.begin(), zero_roles_.end(), role) !=
         zero_roles_.end();
}

ModuleChange ToChange(TargetBuilder builder, absl::string_view algorithm,
                      bool no_effect) {
  ModuleChange change;
  change.zero_alpha = builder.zero_alpha();
  change.no_effect = no_effect;
  change.algorithms.push_back(algorithm);
  change.targets.push_back(std::move(builder.target()));
  return change;
}

}  // namespace graft
