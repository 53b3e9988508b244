#include "server/adapters/adapter_algorithms.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft {
namespace {

// An algorithm that is recognised by any of `markers` and refused by name. An
// algorithm that gets implemented leaves this table.
struct UnsupportedAlgorithm {
  absl::string_view name;
  std::vector<KeyPart> markers;
};

// The first that fits counts: those that build on others come first.
const std::vector<UnsupportedAlgorithm>& UnsupportedAlgorithms() {
  static const auto* const table = new std::vector<UnsupportedAlgorithm>{
      {"T-LoRA", {KeyPart::kTLoraQ, KeyPart::kTLoraP, KeyPart::kTLoraLambda}},
      {"LoRA with a sparse remainder",
       {KeyPart::kSparseIndices, KeyPart::kSparseValues, KeyPart::kSparseSize}},
      {"ComfyUI patch", {KeyPart::kSetWeight, KeyPart::kReshapeWeight}},
      {"DoRA", {KeyPart::kMagnitude}},
      {"LoRA with lora_mid (Tucker)", {KeyPart::kMid}},
      {"LoRA with bias (lora_bias)", {KeyPart::kUpBias}},
      {"LoHa",
       {KeyPart::kHadaW1A, KeyPart::kHadaW1B, KeyPart::kHadaW2A,
        KeyPart::kHadaW2B, KeyPart::kHadaT1, KeyPart::kHadaT2}},
      {"LoKr",
       {KeyPart::kLokrW1, KeyPart::kLokrW1A, KeyPart::kLokrW1B,
        KeyPart::kLokrW2, KeyPart::kLokrW2A, KeyPart::kLokrW2B,
        KeyPart::kLokrT2}},
      {"full difference", {KeyPart::kDiff, KeyPart::kDiffBias}},
      {"norm difference", {KeyPart::kNormDiff, KeyPart::kNormDiffBias}},
      {"IA3", {KeyPart::kIa3Weight, KeyPart::kIa3OnInput}},
      {"GLoRA",
       {KeyPart::kGloraA1, KeyPart::kGloraA2, KeyPart::kGloraB1,
        KeyPart::kGloraB2}},
      {"OFT", {KeyPart::kOftBlocks, KeyPart::kOftRescale}},
  };
  return *table;
}

// OFT and BOFT have the same keys.
absl::string_view ExactName(const UnsupportedAlgorithm& algorithm,
                            const KeyedTensor& tensor) {
  const bool butterfly =
      algorithm.name == "OFT" && tensor.tensor.shape.size() == 4;
  return butterfly ? "BOFT" : algorithm.name;
}

}  // namespace

absl::Status CheckAlgorithm(const KeyGroup& group) {
  for (const UnsupportedAlgorithm& algorithm : UnsupportedAlgorithms()) {
    for (const KeyPart marker : algorithm.markers) {
      const KeyedTensor* const tensor = group.Find(marker);
      if (tensor == nullptr) continue;
      return TensorError(
          ErrorReason::kAdapterKindUnsupported, group, *tensor,
          absl::StrCat(ExactName(algorithm, *tensor),
                       " adapters are not supported yet; this server takes "
                       "LoRA and LoCon"));
    }
  }
  return absl::OkStatus();
}

}  // namespace graft
