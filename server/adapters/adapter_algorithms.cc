#include "server/adapters/adapter_algorithms.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Maker = absl::StatusOr<ModuleChange> (*)(const KeyGroup&,
                                               const AdapterConfig&);

struct Algorithm {
  absl::string_view name;
  std::vector<KeyPart> parts;  // any of them gives it away
  Maker make;                  // null: known, but not implemented
  bool takes_magnitude = false;
};

// Those that are not implemented come first: they build on others.
const std::vector<Algorithm>& Algorithms() {
  static const auto* const table = new std::vector<Algorithm>{
      {"T-LoRA",
       {KeyPart::kTLoraQ, KeyPart::kTLoraP, KeyPart::kTLoraLambda},
       nullptr},
      {"LoRA with a sparse remainder",
       {KeyPart::kSparseIndices, KeyPart::kSparseValues, KeyPart::kSparseSize},
       nullptr},
      {"ComfyUI patch",
       {KeyPart::kSetWeight, KeyPart::kReshapeWeight},
       nullptr},
      {"PEFT's IA3", {KeyPart::kPeftIa3}, nullptr},
      {"LoRA",
       {KeyPart::kDown, KeyPart::kUp, KeyPart::kMid, KeyPart::kUpBias},
       MakeLora,
       true},
      {"LoHa",
       {KeyPart::kHadaW1A, KeyPart::kHadaW1B, KeyPart::kHadaW2A,
        KeyPart::kHadaW2B, KeyPart::kHadaT1, KeyPart::kHadaT2},
       MakeLoha,
       true},
      {"LoKr",
       {KeyPart::kLokrW1, KeyPart::kLokrW1A, KeyPart::kLokrW1B,
        KeyPart::kLokrW2, KeyPart::kLokrW2A, KeyPart::kLokrW2B,
        KeyPart::kLokrT2},
       MakeLokr,
       true},
      {"full difference", {KeyPart::kDiff}, MakeDiff},
      {"norm difference",
       {KeyPart::kNormDiff, KeyPart::kNormDiffBias},
       MakeNormDiff},
      {"IA3", {KeyPart::kIa3Weight, KeyPart::kIa3OnInput}, MakeIa3},
      {"GLoRA",
       {KeyPart::kGloraA1, KeyPart::kGloraA2, KeyPart::kGloraB1,
        KeyPart::kGloraB2},
       MakeGlora},
      {"OFT", {KeyPart::kOftBlocks, KeyPart::kOftRescale}, MakeOft},
  };
  return *table;
}

// The first tensor of the group that belongs to the algorithm, or null.
const KeyedTensor* FindPart(const KeyGroup& group, const Algorithm& algorithm) {
  for (const KeyPart part : algorithm.parts) {
    const KeyedTensor* const tensor = group.Find(part);
    if (tensor != nullptr) return tensor;
  }
  return nullptr;
}

// The one algorithm of the group; null if none of its parts gives one away.
absl::StatusOr<const Algorithm*> FindAlgorithm(const KeyGroup& group) {
  const Algorithm* found = nullptr;
  for (const Algorithm& algorithm : Algorithms()) {
    const KeyedTensor* const tensor = FindPart(group, algorithm);
    if (tensor == nullptr) continue;
    if (algorithm.make == nullptr) {
      return TensorError(
          ErrorReason::kAdapterKindUnsupported, group, *tensor,
          absl::StrCat(algorithm.name,
                       " is not supported; convert the adapter to LoRA"));
    }
    if (found != nullptr) {
      return TensorError(
          ErrorReason::kAdapterCorrupt, group, *tensor,
          absl::StrCat("the module has parts of ", found->name, " and of ",
                       algorithm.name, "; keep one of them"));
    }
    found = &algorithm;
  }
  return found;
}

// Also where the algorithm has no use for it: a file that holds NaN is broken.
absl::Status CheckAlpha(const KeyGroup& group) {
  const KeyedTensor* const alpha = group.Find(KeyPart::kAlpha);
  if (alpha == nullptr) return absl::OkStatus();
  return ReadScalarPart(group, *alpha).status();
}

// Some programs write further factors. 1 changes nothing.
absl::Status CheckFurtherFactors(const KeyGroup& group) {
  for (const KeyPart part : {KeyPart::kScale, KeyPart::kScalar}) {
    const KeyedTensor* const tensor = group.Find(part);
    if (tensor == nullptr) continue;
    GRAFT_ASSIGN_OR_RETURN(const double value, ReadScalarPart(group, *tensor));
    if (value != 1) {
      return TensorError(ErrorReason::kAdapterKindUnsupported, group, *tensor,
                         absl::StrCat("a factor of ", value,
                                      " beside alpha is not supported"));
    }
  }
  return absl::OkStatus();
}

const KeyedTensor* FindMagnitude(const KeyGroup& group) {
  const KeyedTensor* const scale = group.Find(KeyPart::kMagnitude);
  return scale != nullptr ? scale : group.Find(KeyPart::kMagnitudeVector);
}

absl::Status CheckMagnitude(const KeyGroup& group, const Algorithm* algorithm) {
  const KeyedTensor* const magnitude = FindMagnitude(group);
  if (magnitude == nullptr) return absl::OkStatus();
  if (algorithm == nullptr || !algorithm->takes_magnitude) {
    return TensorError(ErrorReason::kAdapterCorrupt, group, *magnitude,
                       "the module is incomplete: a magnitude (DoRA) goes "
                       "with the factors of a LoRA, LoHa or LoKr");
  }
  if (group.Find(KeyPart::kMagnitude) != nullptr &&
      group.Find(KeyPart::kMagnitudeVector) != nullptr) {
    return TensorError(ErrorReason::kAdapterCorrupt, group, *magnitude,
                       "the module has two magnitudes; keep one of them");
  }
  return absl::OkStatus();
}

// What the configuration says of the module must be there: without it the
// adapter would do something else than it was trained to.
absl::Status CheckPromises(const KeyGroup& group, const AdapterConfig& config) {
  const std::string& module = group.module->name;
  if (config.UsesDora(module) && FindMagnitude(group) == nullptr) {
    return GroupError(ErrorReason::kAdapterCorrupt, group,
                      "its configuration says DoRA, but the module has no "
                      "magnitude; save the adapter again");
  }
  if (config.UsesBias(module) && group.Find(KeyPart::kUpBias) == nullptr) {
    return GroupError(ErrorReason::kAdapterCorrupt, group,
                      "its configuration says \"lora_bias\", but the module "
                      "has no bias; save the adapter again");
  }
  return absl::OkStatus();
}

// A full difference of the bias goes with any algorithm of the weight.
absl::Status AddBiasDifference(const KeyGroup& group, ModuleChange& change) {
  const KeyedTensor* const bias = group.Find(KeyPart::kDiffBias);
  if (bias == nullptr) return absl::OkStatus();
  for (const KeyPart other : {KeyPart::kUpBias, KeyPart::kNormDiffBias}) {
    if (group.Find(other) == nullptr) continue;
    return TensorError(ErrorReason::kAdapterCorrupt, group, *bias,
                       absl::StrCat("\"", PartSuffix(other),
                                    "\" changes the bias too; keep one of "
                                    "them"));
  }
  GRAFT_RETURN_IF_ERROR(
      AddBias(group, KeyPart::kDiffBias, /*scale=*/1, change));
  change.algorithms.push_back("diff");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModuleChange> MakeModuleChange(const KeyGroup& group,
                                              const AdapterConfig& config) {
  GRAFT_ASSIGN_OR_RETURN(const Algorithm* const algorithm,
                         FindAlgorithm(group));
  GRAFT_RETURN_IF_ERROR(CheckAlpha(group));
  GRAFT_RETURN_IF_ERROR(CheckFurtherFactors(group));
  GRAFT_RETURN_IF_ERROR(CheckMagnitude(group, algorithm));
  GRAFT_RETURN_IF_ERROR(CheckPromises(group, config));
  ModuleChange change;
  change.no_effect = true;
  if (algorithm != nullptr) {
    GRAFT_ASSIGN_OR_RETURN(change, algorithm->make(group, config));
  } else if (group.Find(KeyPart::kDiffBias) == nullptr) {
    return TensorError(ErrorReason::kAdapterCorrupt, group,
                       group.parts.begin()->second,
                       "the module is incomplete: all factors are missing; "
                       "save the adapter again");
  }
  if (FindMagnitude(group) != nullptr) {
    GRAFT_RETURN_IF_ERROR(AddMagnitude(group, change));
  }
  GRAFT_RETURN_IF_ERROR(AddBiasDifference(group, change));
  return change;
}

}  // namespace graft
