#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_WEIGHT_FUNCTION_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_WEIGHT_FUNCTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/engine/adapter_weights.h"

namespace graft {

// A change that depends on the weight it is made to: DoRA, IA3, GLoRA, OFT,
// BOFT. Immutable.
class WeightFunction {
 public:
  virtual ~WeightFunction() = default;

  // D at weight 1 for the pristine weight `w0`, float32 [rows, cols] on the
  // parameter's device, in the same form. Deterministic: one thread computes
  // it.
  virtual at::Tensor Change(const at::Tensor& w0) const = 0;

  virtual int64_t bytes() const = 0;
};

// The function of `target`, for a parameter with the shape of `weight`; null if
// the target is additive. ADAPTER_BASE_MISMATCH if the factors do not fit.
absl::StatusOr<std::unique_ptr<const WeightFunction>> MakeWeightFunction(
    const AdapterTarget& target, const at::Tensor& weight);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_WEIGHT_FUNCTION_H_
