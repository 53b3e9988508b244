#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// The axis of PEFT's vector of magnitudes: always the output.
std::optional<WeightAxis> AxisOfVector(const Shape& found, int64_t out) {
  if (found == Shape{out} || found == Shape{1, out, 1, 1}) {
    return WeightAxis::kOutput;
  }
  return std::nullopt;
}

// The axis of the magnitudes that LyCORIS and kohya write. [1, n, 1, 1] comes
// from PEFT's files too, for the output, and counts as such where it can only
// be that.
std::optional<WeightAxis> AxisOfScale(const Shape& found, int64_t out,
                                      int64_t in) {
  const Shape shape = WithoutUnitKernel(found);
  if (found == Shape{out} || shape == Shape{out, 1}) {
    return WeightAxis::kOutput;
  }
  if (shape == Shape{1, in}) return WeightAxis::kInput;
  if (found == Shape{1, out, 1, 1}) return WeightAxis::kOutput;
  return std::nullopt;
}

}  // namespace

absl::Status AddMagnitude(const KeyGroup& group, ModuleChange& change) {
  const bool vector = group.Find(KeyPart::kMagnitudeVector) != nullptr;
  const KeyPart part = vector ? KeyPart::kMagnitudeVector : KeyPart::kMagnitude;
  const KeyedTensor& tensor = *group.Find(part);
  const int64_t out = group.module->weight_shape[0];
  const int64_t in = group.module->weight_shape[1];
  const std::optional<WeightAxis> axis =
      vector ? AxisOfVector(tensor.tensor.shape, out)
             : AxisOfScale(tensor.tensor.shape, out, in);
  if (!axis.has_value()) {
    return ShapeMismatch(group, tensor,
                         vector
                             ? absl::StrCat("[", out, "]")
                             : absl::StrCat("[", out, ", 1] or [1, ", in, "]"));
  }
  AdapterTarget& target = change.targets[0];
  TargetBuilder builder(group, target.algorithm);
  GRAFT_RETURN_IF_ERROR(builder.AddReshaped(
      part, FactorRole::kMagnitude, {*axis == WeightAxis::kOutput ? out : in}));
  target.magnitude_axis = *axis;
  target.factors.push_back(std::move(builder.target().factors[0]));
  change.algorithms.push_back("dora");
  change.no_effect = false;  // the magnitude changes the weight as well
  return absl::OkStatus();
}

}  // namespace graft
