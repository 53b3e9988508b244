#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_DELTA_FACTORS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_DELTA_FACTORS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/weights/kernels/packed_factors.h"
#include "server/engine/weights/kernels/switch_tile.h"

namespace graft {

// The factors of an additive change, in memory of the parameter's device as the
// switch reads them, and the term that points to them. Movable: the memory
// stays where it is.
class DeltaFactors {
 public:
  DeltaFactors() = default;

  // Packs the factors of `target` for a parameter with the shape of `weight`,
  // and tells in `bound` that no element of D is larger. ADAPTER_BASE_MISMATCH
  // names the module if they do not fit. REQUIRES: the algorithm is additive;
  // factors are finite; a magnitude is not looked at.
  static absl::StatusOr<DeltaFactors> Create(const AdapterTarget& target,
                                             const at::Tensor& weight,
                                             double& bound);

  const DeltaTerm& term() const { return term_; }
  int64_t bytes() const;

  // D as a float32 tensor [rows, cols] on the parameter's device.
  at::Tensor Evaluate(int64_t rows, int64_t cols) const;

 private:
  absl::Status PackLora(const AdapterTarget& target, const at::Tensor& weight,
                        double& bound);
  absl::Status PackLoha(const AdapterTarget& target, const at::Tensor& weight,
                        double& bound);
  absl::Status PackLokr(const AdapterTarget& target, const at::Tensor& weight,
                        double& bound);
  absl::Status PackDiff(const AdapterTarget& target, const at::Tensor& weight,
                        double& bound);

  // Packs up * down, if that is a matrix of the parameter's size; no element of
  // it is larger than `bound`.
  bool PackProduct(const at::Tensor& up, const at::Tensor& down,
                   const at::Tensor& weight, LowRankFactors& factors,
                   double& bound);
  // A copy on the parameter's device, kept.
  at::Tensor Keep(const at::Tensor& tensor);

  std::vector<PackedFactors> packed_;  // on the CPU
  std::vector<at::Tensor> tensors_;    // contiguous, all else
  at::Device device_ = at::kCPU;
  DeltaTerm term_;
};

// The sum of terms whose factors lie on `device`, float32 [rows, cols]; zeros
// if there are none.
at::Tensor SumTerms(DeltaTerms terms, int64_t rows, int64_t cols,
                    at::Device device);

// The factor as a tensor of its shape, in `dtype`, on the CPU.
at::Tensor FactorTensor(const AdapterFactor& factor, at::ScalarType dtype);

// The error for factors that do not fit the base's weight.
absl::Status FactorsDoNotFit(const AdapterTarget& target);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_DELTA_FACTORS_H_
