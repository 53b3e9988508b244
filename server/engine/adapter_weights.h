#ifndef GRAFT_SERVER_ENGINE_ADAPTER_WEIGHTS_H_
#define GRAFT_SERVER_ENGINE_ADAPTER_WEIGHTS_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// How a target's factors make its change D of the weight.
enum class AdapterAlgorithm {
  // D = scale * flat(up) * flat(down), reshaped to W (arXiv:2106.09685; k x k
  // convolutions: LoCon, arXiv:2309.14859). up [out, r], down [r, in(, kh,
  // kw)].
  kLora,
};

// "lora"
absl::string_view AdapterAlgorithmName(AdapterAlgorithm algorithm);

enum class FactorRole { kDown, kUp };

struct AdapterFactor {
  FactorRole role = FactorRole::kDown;
  std::string key;  // in the file, for messages
  TensorView tensor;
};

// What an adapter does to one module of the base.
struct AdapterTarget {
  std::string module;  // ModuleInfo::name
  AdapterAlgorithm algorithm = AdapterAlgorithm::kLora;
  int rank = 0;
  double scale = 1.0;  // alpha / rank, or what the format says
  std::vector<AdapterFactor> factors;
};

// One adapter's weights in host memory, checked for keys and shapes, as parsed
// from its file. Immutable after parsing.
struct AdapterWeights {
  std::string sha256;                   // of the whole file, 64 hex digits
  std::shared_ptr<const void> storage;  // keeps the factors' bytes alive
  std::vector<AdapterTarget> targets;   // sorted by module; one per module
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_ADAPTER_WEIGHTS_H_
