#ifndef GRAFT_TESTS_TESTING_RANDOM_WEIGHTS_H_
#define GRAFT_TESTS_TESTING_RANDOM_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "server/engine/adapter_weights.h"
#include "server/engine/module_table.h"

namespace graft {

// A kind of adapter as users speak of it, some of which share an algorithm.
enum class RandomWeightsKind {
  kLora,
  kLocon,  // with a mid factor where the module is a k x k convolution
  kLoha,
  kLohaTucker,
  kLokr,
  kLokrTucker,
  kDora,
  kDoraOnInput,
  kDiff,  // weights, biases and norms
  kIa3,
  kGlora,
  kOft,
  kBoft,
  kMixed,  // another kind for each module
};

inline constexpr RandomWeightsKind kAllRandomWeightsKinds[] = {
    RandomWeightsKind::kLora,  RandomWeightsKind::kLocon,
    RandomWeightsKind::kLoha,  RandomWeightsKind::kLohaTucker,
    RandomWeightsKind::kLokr,  RandomWeightsKind::kLokrTucker,
    RandomWeightsKind::kDora,  RandomWeightsKind::kDoraOnInput,
    RandomWeightsKind::kDiff,  RandomWeightsKind::kIa3,
    RandomWeightsKind::kGlora, RandomWeightsKind::kOft,
    RandomWeightsKind::kBoft,  RandomWeightsKind::kMixed,
};

struct RandomWeightsOptions {
  RandomWeightsKind kind = RandomWeightsKind::kMixed;
  uint64_t seed = 0;                      // decides everything
  float size = 0.1F;                      // standard deviation of the factors
  TensorDtype dtype = TensorDtype::kF32;  // F32, F16 or BF16
  // One module of so many is adapted.
  int one_module_of = 2;
};

// An adapter for some of the base's modules, as a parser would give it: every
// kind that fits a module is made for it with shapes that fit.
AdapterWeights RandomWeights(const ModuleTable& modules,
                             const RandomWeightsOptions& options);

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_RANDOM_WEIGHTS_H_
