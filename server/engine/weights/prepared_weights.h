#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_PREPARED_WEIGHTS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_PREPARED_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/engine.h"
#include "server/engine/weights/delta_factors.h"
#include "server/engine/weights/weight_function.h"
#include "server/engine/weights/weight_store.h"

namespace graft {

// What one adapter does to one parameter, at weight 1: one of the two.
struct PreparedTarget {
  uint32_t parameter = 0;  // its place among the store's tensors()

  // Additive: D is this term (its coefficient is the scale).
  DeltaFactors factors;
  // No element of D is larger. Additive only.
  double bound = 0.0;
  // Not additive: D is a function of W0. Null if additive.
  std::unique_ptr<const WeightFunction> function;

  bool in_text_encoder = false;

  bool additive() const { return function == nullptr; }
  int64_t bytes() const;
};

// An adapter laid out for switching. Immutable.
class PreparedWeights : public PreparedAdapter {
 public:
  // ADAPTER_NON_FINITE names the tensor. `live_bytes` is increased by bytes()
  // for as long as the object lives. REQUIRES: every target names a parameter
  // of `store` and its factors fit it.
  static absl::StatusOr<std::shared_ptr<const PreparedWeights>> Create(
      const AdapterWeights& weights, const WeightStore& store,
      std::shared_ptr<std::atomic<int64_t>> live_bytes);

  ~PreparedWeights() override;
  PreparedWeights(const PreparedWeights&) = delete;
  PreparedWeights& operator=(const PreparedWeights&) = delete;

  const std::string& sha256() const override { return sha256_; }
  int64_t bytes() const override { return bytes_; }

  // In the order of the store's parameters, one for each that is changed.
  const std::vector<PreparedTarget>& targets() const { return targets_; }

  // Whether one of them is the text encoder's.
  bool reaches_text_encoder() const { return reaches_text_encoder_; }

 private:
  PreparedWeights() = default;

  std::string sha256_;
  std::vector<PreparedTarget> targets_;
  bool reaches_text_encoder_ = false;
  int64_t bytes_ = 0;
  std::shared_ptr<std::atomic<int64_t>> live_bytes_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_PREPARED_WEIGHTS_H_
