#ifndef GRAFT_SERVER_ADAPTERS_KEY_SUFFIXES_H_
#define GRAFT_SERVER_ADAPTERS_KEY_SUFFIXES_H_

#include <optional>

#include "absl/strings/string_view.h"

// The ends of tensor keys: what part of which algorithm a tensor is.
namespace graft {

// All parts that are known, whether or not their algorithm is implemented: what
// is known can be refused by name.
enum class KeyPart {
  kAlpha,
  kDown,  // LoRA, LoCon
  kUp,
  kMid,              // Tucker core of a k x k convolution
  kUpBias,           // PEFT's lora_bias
  kMagnitude,        // DoRA
  kMagnitudeVector,  // the same as PEFT writes it, along another axis
  kHadaW1A,          // LoHa
  kHadaW1B,
  kHadaW2A,
  kHadaW2B,
  kHadaT1,
  kHadaT2,
  kLokrW1,  // LoKr
  kLokrW1A,
  kLokrW1B,
  kLokrW2,
  kLokrW2A,
  kLokrW2B,
  kLokrT2,
  kDiff,  // full difference
  kDiffBias,
  kNormDiff,  // norm difference
  kNormDiffBias,
  kIa3Weight,
  kIa3OnInput,
  kPeftIa3,  // another formula
  kGloraA1,
  kGloraA2,
  kGloraB1,
  kGloraB2,
  kOftBlocks,  // OFT, BOFT
  kOftRescale,
  kTLoraQ,
  kTLoraP,
  kTLoraLambda,
  kSparseIndices,  // extraction with a sparse remainder
  kSparseValues,
  kSparseSize,
  kSetWeight,  // ComfyUI's patches
  kReshapeWeight,
  kScale,  // overrides alpha / rank (A1111, early LyCORIS)
  kScalar,
};

// The part that `suffix`, all that follows a flat module name, stands for:
// ".lora_up.weight" is kUp.
std::optional<KeyPart> FindFlatSuffix(absl::string_view suffix);

// The usual suffix of a part, for messages: ".lora_up.weight".
absl::string_view PartSuffix(KeyPart part);

struct DottedSuffix {
  KeyPart part = KeyPart::kAlpha;
  absl::string_view path;  // of the key, what stands before the suffix
};

// Splits a key of dotted module path and suffix at the longest suffix that is
// known: "x.to_q_lora.up.weight" is {kUp, "x.to_q"}.
std::optional<DottedSuffix> SplitDottedKey(absl::string_view key);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_KEY_SUFFIXES_H_
