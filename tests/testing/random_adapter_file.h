#ifndef GRAFT_TESTS_TESTING_RANDOM_ADAPTER_FILE_H_
#define GRAFT_TESTS_TESTING_RANDOM_ADAPTER_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/engine/module_table.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// What an adapter file can hold. Tucker forms exist for k x k convolutions
// only; other modules get the plain form.
enum class RandomAdapterKind {
  kLora,  // k x k convolutions: LoCon
  kLoraTucker,
  kLoraBias,  // a LoRA with a change of the bias, where there is one
  kLoha,
  kLohaTucker,
  kLokr,       // w1 whole, w2 of two factors
  kLokrWhole,  // both sides whole
  kLokrBoth,   // both sides of two factors
  kLokrTucker,
  kDora,       // on LoRA, along the output axis
  kDoraInput,  // on LoRA, along the input axis
  kDoraLoha,
  kDoraLokr,
  kDiff,  // all modules, norms and embeddings too; biases where there are any
  kNorm,  // norms only
  kIa3,   // along the output axis
  kIa3Input,
  kGlora,
  kOft,             // free
  kOftConstrained,  // with constraint and rescale
  kBoft,
};

inline constexpr RandomAdapterKind kAllRandomAdapterKinds[] = {
    RandomAdapterKind::kLora,       RandomAdapterKind::kLoraTucker,
    RandomAdapterKind::kLoraBias,   RandomAdapterKind::kLoha,
    RandomAdapterKind::kLohaTucker, RandomAdapterKind::kLokr,
    RandomAdapterKind::kLokrWhole,  RandomAdapterKind::kLokrBoth,
    RandomAdapterKind::kLokrTucker, RandomAdapterKind::kDora,
    RandomAdapterKind::kDoraInput,  RandomAdapterKind::kDoraLoha,
    RandomAdapterKind::kDoraLokr,   RandomAdapterKind::kDiff,
    RandomAdapterKind::kNorm,       RandomAdapterKind::kIa3,
    RandomAdapterKind::kIa3Input,   RandomAdapterKind::kGlora,
    RandomAdapterKind::kOft,        RandomAdapterKind::kOftConstrained,
    RandomAdapterKind::kBoft,
};

// For the names of tests: "LoraTucker".
absl::string_view RandomAdapterKindName(RandomAdapterKind kind);

// The bytes of a file (kohya's names, F16, BF16, F32 or F64) that changes those
// of `modules` that `kind` can change. The values are small, finite and the
// same for the same arguments on every machine. Modules whose rows no block
// tiles are left out of OFT and BOFT.
std::string RandomAdapterFile(RandomAdapterKind kind,
                              const std::vector<ModuleInfo>& modules, int rank,
                              uint64_t seed,
                              TensorDtype dtype = TensorDtype::kF32);

// kohya's name for a module: "lora_unet_mid_block_resnets_0_conv1".
std::string KohyaName(absl::string_view module);

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_RANDOM_ADAPTER_FILE_H_
