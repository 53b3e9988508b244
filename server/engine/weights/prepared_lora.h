#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_PREPARED_LORA_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_PREPARED_LORA_H_

#include <ATen/core/Tensor.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/engine.h"
#include "server/engine/weights/weight_store.h"

namespace graft {

// What one adapter does to one parameter: D = scale * up * down, as matrices.
struct LowRankTarget {
  at::Tensor up;    // [out, r], float32, on the device
  at::Tensor down;  // [r, in * kh * kw], float32, on the device
  double scale = 1.0;
  // No element of D at weight 1 is larger (Cauchy-Schwarz on rows and columns).
  double bound = 0.0;
  bool in_text_encoder = false;
};

// A LoRA or LoCon adapter laid out for switching. Immutable.
class PreparedLora : public PreparedAdapter {
 public:
  // ADAPTER_NON_FINITE names the module. `live_bytes` is increased by bytes()
  // for as long as the object lives. REQUIRES: every target names a parameter
  // of `store` and its factors fit it.
  static absl::StatusOr<std::shared_ptr<const PreparedLora>> Create(
      const AdapterWeights& weights, const WeightStore& store,
      std::shared_ptr<std::atomic<int64_t>> live_bytes);

  ~PreparedLora() override;
  PreparedLora(const PreparedLora&) = delete;
  PreparedLora& operator=(const PreparedLora&) = delete;

  const std::string& sha256() const override { return sha256_; }
  int64_t bytes() const override { return bytes_; }

  // By parameter name ("unet.conv_in.weight").
  const std::map<std::string, LowRankTarget>& targets() const {
    return targets_;
  }

 private:
  PreparedLora() = default;

  std::string sha256_;
  std::map<std::string, LowRankTarget> targets_;
  int64_t bytes_ = 0;
  std::shared_ptr<std::atomic<int64_t>> live_bytes_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_PREPARED_LORA_H_
