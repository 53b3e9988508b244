#include "server/engine/weights/prepared_weights.h"

#include <ATen/ATen.h>

#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

absl::Status CheckFactors(const AdapterTarget& target) {
  for (const AdapterFactor& factor : target.factors) {
    if (FactorTensor(factor, at::kFloat).isfinite().all().item<bool>()) {
      continue;
    }
    return Error(ErrorReason::kAdapterNonFinite,
                 absl::StrCat("tensor \"", factor.key,
                              "\" holds NaN or infinite values"),
                 {{"tensor", factor.key}});
  }
  return absl::OkStatus();
}

absl::StatusOr<PreparedTarget> PrepareTarget(const AdapterTarget& target,
                                             const at::Tensor& parameter) {
  GRAFT_RETURN_IF_ERROR(CheckFactors(target));
  PreparedTarget prepared;
  prepared.in_text_encoder = absl::StartsWith(target.module, "text_encoder");
  GRAFT_ASSIGN_OR_RETURN(prepared.function,
                         MakeWeightFunction(target, parameter));
  if (prepared.additive()) {
    GRAFT_ASSIGN_OR_RETURN(
        prepared.factors,
        DeltaFactors::Create(target, parameter, prepared.bound));
  }
  return prepared;
}

std::string ParameterName(const AdapterTarget& target) {
  return absl::StrCat(target.module, target.parameter == ParameterKind::kBias
                                         ? ".bias"
                                         : ".weight");
}

}  // namespace

int64_t PreparedTarget::bytes() const {
  return additive() ? factors.bytes() : function->bytes();
}

absl::StatusOr<std::shared_ptr<const PreparedWeights>> PreparedWeights::Create(
    const AdapterWeights& weights, const WeightStore& store,
    std::shared_ptr<std::atomic<int64_t>> live_bytes) {
  std::shared_ptr<PreparedWeights> prepared(new PreparedWeights());
  prepared->sha256_ = weights.sha256;
  std::map<std::string, PreparedTarget> targets;
  for (const AdapterTarget& target : weights.targets) {
    const std::string parameter = ParameterName(target);
    if (!store.Contains(parameter)) {
      return Error(
          ErrorReason::kAdapterBaseMismatch,
          absl::StrCat("the base has no parameter \"", parameter, "\""),
          {{"module", target.module}});
    }
    GRAFT_ASSIGN_OR_RETURN(PreparedTarget factors,
                           PrepareTarget(target, store.at(parameter)));
    prepared->bytes_ += factors.bytes();
    prepared->reaches_text_encoder_ |= factors.in_text_encoder;
    targets.emplace(parameter, std::move(factors));
  }
  prepared->targets_.reserve(targets.size());
  // Both in the order of names.
  auto next = targets.begin();
  uint32_t number = 0;
  for (const auto& [name, tensor] : store.tensors()) {
    if (next == targets.end()) break;
    if (next->first == name) {
      next->second.parameter = number;
      prepared->targets_.push_back(std::move(next->second));
      ++next;
    }
    ++number;
  }
  live_bytes->fetch_add(prepared->bytes_);
  prepared->live_bytes_ = std::move(live_bytes);
  return prepared;
}

PreparedWeights::~PreparedWeights() {
  if (live_bytes_ != nullptr) live_bytes_->fetch_sub(bytes_);
}

}  // namespace graft
