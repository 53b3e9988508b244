#include "server/engine/weights/prepared_lora.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// The factor as a float32 matrix [shape[0], rest].
at::Tensor AsMatrix(const TensorView& view) {
  const at::Tensor tensor = CopyToTensor(view).to(at::kFloat);
  return tensor.reshape({tensor.size(0), -1});
}

double MaxRowNorm(const at::Tensor& matrix, int64_t dim) {
  return matrix.to(at::kDouble).pow(2).sum(dim).max().sqrt().item<double>();
}

absl::StatusOr<LowRankTarget> PrepareTarget(const AdapterTarget& target,
                                            const at::Tensor& weight) {
  at::Tensor up, down;
  for (const AdapterFactor& factor : target.factors) {
    at::Tensor matrix = AsMatrix(factor.tensor);
    if (!matrix.isfinite().all().item<bool>()) {
      return Error(ErrorReason::kAdapterNonFinite,
                   absl::StrCat("tensor \"", factor.key,
                                "\" holds NaN or infinite values"),
                   {{"tensor", factor.key}});
    }
    (factor.role == FactorRole::kUp ? up : down) = std::move(matrix);
  }
  if (!up.defined() || !down.defined() || up.size(1) != down.size(0) ||
      up.size(0) != weight.size(0) ||
      up.size(0) * down.size(1) != weight.numel()) {
    return Error(ErrorReason::kAdapterBaseMismatch,
                 absl::StrCat("the factors of \"", target.module,
                              "\" do not fit the base's weight"),
                 {{"module", target.module}});
  }
  LowRankTarget prepared;
  prepared.scale = target.scale;
  prepared.bound =
      std::abs(target.scale) * MaxRowNorm(up, 1) * MaxRowNorm(down, 0);
  prepared.in_text_encoder = absl::StartsWith(target.module, "text_encoder.");
  prepared.up = up.to(weight.device()).contiguous();
  prepared.down = down.to(weight.device()).contiguous();
  return prepared;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PreparedLora>> PreparedLora::Create(
    const AdapterWeights& weights, const WeightStore& store,
    std::shared_ptr<std::atomic<int64_t>> live_bytes) {
  std::shared_ptr<PreparedLora> prepared(new PreparedLora());
  prepared->sha256_ = weights.sha256;
  for (const AdapterTarget& target : weights.targets) {
    const std::string parameter = target.module + ".weight";
    if (!store.Contains(parameter)) {
      return Error(
          ErrorReason::kAdapterBaseMismatch,
          absl::StrCat("the base has no module \"", target.module, "\""),
          {{"module", target.module}});
    }
    GRAFT_ASSIGN_OR_RETURN(LowRankTarget factors,
                           PrepareTarget(target, store.at(parameter)));
    prepared->bytes_ +=
        static_cast<int64_t>(factors.up.nbytes() + factors.down.nbytes());
    prepared->targets_.emplace(parameter, std::move(factors));
  }
  live_bytes->fetch_add(prepared->bytes_);
  prepared->live_bytes_ = std::move(live_bytes);
  return prepared;
}

PreparedLora::~PreparedLora() {
  if (live_bytes_ != nullptr) live_bytes_->fetch_sub(bytes_);
}

}  // namespace graft
