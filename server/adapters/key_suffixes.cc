#include "server/adapters/key_suffixes.h"

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace graft {
namespace {

enum class Where { kBoth, kFlat, kDotted };

struct Row {
  absl::string_view suffix;
  KeyPart part;
  Where where = Where::kBoth;
};

constexpr Row kTable[] = {
    {".alpha", KeyPart::kAlpha},
    {".lora_down.weight", KeyPart::kDown},
    {".lora_up.weight", KeyPart::kUp},
    {".lora_A.weight", KeyPart::kDown},
    {".lora_B.weight", KeyPart::kUp},
    {".lora_mid.weight", KeyPart::kMid},
    {".lora_B.bias", KeyPart::kUpBias},
    // The layouts that diffusers used to write.
    {"_lora.down.weight", KeyPart::kDown, Where::kDotted},
    {"_lora.up.weight", KeyPart::kUp, Where::kDotted},
    {".lora.down.weight", KeyPart::kDown, Where::kDotted},
    {".lora.up.weight", KeyPart::kUp, Where::kDotted},
    {".lora_linear_layer.down.weight", KeyPart::kDown, Where::kDotted},
    {".lora_linear_layer.up.weight", KeyPart::kUp, Where::kDotted},

    {".dora_scale", KeyPart::kMagnitude},
    {".lora_magnitude_vector", KeyPart::kMagnitudeVector},
    {".lora_magnitude_vector.weight", KeyPart::kMagnitudeVector},
    {".hada_w1_a", KeyPart::kHadaW1A},
    {".hada_w1_b", KeyPart::kHadaW1B},
    {".hada_w2_a", KeyPart::kHadaW2A},
    {".hada_w2_b", KeyPart::kHadaW2B},
    {".hada_t1", KeyPart::kHadaT1},
    {".hada_t2", KeyPart::kHadaT2},
    {".lokr_w1", KeyPart::kLokrW1},
    {".lokr_w1_a", KeyPart::kLokrW1A},
    {".lokr_w1_b", KeyPart::kLokrW1B},
    {".lokr_w2", KeyPart::kLokrW2},
    {".lokr_w2_a", KeyPart::kLokrW2A},
    {".lokr_w2_b", KeyPart::kLokrW2B},
    {".lokr_t2", KeyPart::kLokrT2},
    {".diff", KeyPart::kDiff},
    {".diff_b", KeyPart::kDiffBias},
    {".w_norm", KeyPart::kNormDiff},
    {".b_norm", KeyPart::kNormDiffBias},
    // Behind a dotted path this is the base's own weight, as in a checkpoint.
    {".weight", KeyPart::kIa3Weight, Where::kFlat},
    {".on_input", KeyPart::kIa3OnInput},
    {".ia3_l", KeyPart::kPeftIa3, Where::kDotted},
    {".a1.weight", KeyPart::kGloraA1},
    {".a2.weight", KeyPart::kGloraA2},
    {".b1.weight", KeyPart::kGloraB1},
    {".b2.weight", KeyPart::kGloraB2},
    {".oft_blocks", KeyPart::kOftBlocks},
    {".rescale", KeyPart::kOftRescale},

    {".q_layer.weight", KeyPart::kTLoraQ},
    {".p_layer.weight", KeyPart::kTLoraP},
    {".lambda_layer", KeyPart::kTLoraLambda},
    {".bias_indices", KeyPart::kSparseIndices},
    {".bias_values", KeyPart::kSparseValues},
    {".bias_size", KeyPart::kSparseSize},
    {".set_weight", KeyPart::kSetWeight},
    {".reshape_weight", KeyPart::kReshapeWeight},
    {".scale", KeyPart::kScale},
    {".scalar", KeyPart::kScalar},
};

}  // namespace

std::optional<KeyPart> FindFlatSuffix(absl::string_view suffix) {
  for (const Row& row : kTable) {
    if (row.where != Where::kDotted && suffix == row.suffix) return row.part;
  }
  return std::nullopt;
}

absl::string_view PartSuffix(KeyPart part) {
  for (const Row& row : kTable) {
    if (row.part == part) return row.suffix;
  }
  return "";
}

std::optional<DottedSuffix> SplitDottedKey(absl::string_view key) {
  const Row* longest = nullptr;
  for (const Row& row : kTable) {
    if (row.where != Where::kFlat && absl::EndsWith(key, row.suffix) &&
        (longest == nullptr || row.suffix.size() > longest->suffix.size())) {
      longest = &row;
    }
  }
  if (longest == nullptr) return std::nullopt;
  return DottedSuffix{longest->part, absl::StripSuffix(key, longest->suffix)};
}

}  // namespace graft
