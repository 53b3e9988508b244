#include "server/adapters/origin_guess.h"

#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/adapters/key_names.h"

namespace graft {
namespace {

// A piece of a key that gives a file away. The first row that fits counts.
struct KeyClue {
  absl::string_view piece;
  absl::string_view what;
  bool is_adapter;  // `what` is the family that it was made for
};

constexpr KeyClue kKeyClues[] = {
    {"lora_unet_double_blocks_", "Flux", true},
    {"lora_unet_single_blocks_", "Flux", true},
    {"transformer.single_transformer_blocks.", "Flux", true},
    {"lora_transformer_", "Flux", true},
    {"lora_unet_joint_blocks_", "SD 3", true},
    {"transformer.transformer_blocks.", "SD 3", true},
    {"lora_te3_", "SD 3", true},
    {"lora_prior_unet_", "Stable Cascade", true},
    {"lora_prior_te_", "Stable Cascade", true},
    {"motion_modules", "an AnimateDiff motion module", false},
    {"lora_controlnet", "a ControlNet", false},
    {"control_model.", "a ControlNet", false},
    {"zero_convs", "a ControlNet", false},
    {"image_proj", "an IP-Adapter", false},
    {"ip_adapter", "an IP-Adapter", false},
    {"unet:0:", "a LoRA of the earliest layout, which has no names", false},
    {"text_encoder:0:", "a LoRA of the earliest layout, which has no names",
     false},
    {"cond_stage_model.", "a full checkpoint, not an adapter", false},
    {"first_stage_model.", "a full checkpoint, not an adapter", false},
    {"emb_params", "a textual inversion", false},
    {"string_to_param", "a textual inversion", false},
};

struct Width {
  int64_t columns;
  BaseFamily family;
};

// Of the text embedding, which each family's cross-attention reads.
constexpr Width kWidths[] = {{768, BaseFamily::kSd1},
                             {1024, BaseFamily::kSd2},
                             {2048, BaseFamily::kSdxl}};

// Of the first factor on the embedding, nullopt if the file has none.
std::optional<int64_t> CrossAttentionWidth(const SafetensorsFile& file) {
  for (const auto& [key, tensor] : file.tensors()) {
    const bool reads_embedding = absl::StrContains(key, "attn2_to_k.") ||
                                 absl::StrContains(key, "attn2.to_k.") ||
                                 absl::StrContains(key, "attn2.processor.to_k");
    if (IsBundledEmbedding(key)) continue;
    const bool is_down = absl::StrContains(key, "down.weight") ||
                         absl::StrContains(key, "lora_A.");
    if (reads_embedding && is_down && tensor.shape.size() >= 2) {
      return tensor.shape[1];
    }
  }
  return std::nullopt;
}

bool AnyKeyHas(const SafetensorsFile& file, absl::string_view piece) {
  for (const auto& [key, tensor] : file.tensors()) {
    // A bundled embedding tells nothing about what it is bundled with.
    if (absl::StrContains(key, piece) && !IsBundledEmbedding(key)) return true;
  }
  return false;
}

std::optional<BaseFamily> GuessFamily(const SafetensorsFile& file) {
  const std::optional<int64_t> width = CrossAttentionWidth(file);
  for (const Width& row : kWidths) {
    if (width == row.columns) return row.family;
  }
  if (AnyKeyHas(file, "transformer_blocks_1_") ||
      AnyKeyHas(file, "transformer_blocks.1.") ||
      AnyKeyHas(file, "lora_te2_") || AnyKeyHas(file, "text_encoder_2.") ||
      AnyKeyHas(file, "clip_g.")) {
    return BaseFamily::kSdxl;
  }
  if (AnyKeyHas(file, "down_blocks_0_attentions_") ||
      AnyKeyHas(file, "down_blocks.0.attentions.") ||
      AnyKeyHas(file, "down_blocks_3_") || AnyKeyHas(file, "down_blocks.3.") ||
      AnyKeyHas(file, "input_blocks_10_") ||
      AnyKeyHas(file, "input_blocks.10.")) {
    return BaseFamily::kSd1;
  }
  return std::nullopt;
}

bool IsTextualInversion(const SafetensorsFile& file) {
  if (file.tensors().empty()) return false;
  for (const auto& [key, tensor] : file.tensors()) {
    if (key != "clip_l" && key != "clip_g") return false;
  }
  return true;
}

}  // namespace

OriginGuess GuessOrigin(const SafetensorsFile& file, const ModuleTable& base) {
  for (const KeyClue& clue : kKeyClues) {
    if (AnyKeyHas(file, clue.piece)) {
      OriginGuess guess;
      (clue.is_adapter ? guess.made_for : guess.what) = std::string(clue.what);
      return guess;
    }
  }
  if (IsTextualInversion(file)) return {"a textual inversion", ""};
  const std::optional<BaseFamily> family = GuessFamily(file);
  if (!family.has_value() || *family == base.family) return {};
  return {"", std::string(BaseFamilyName(*family))};
}

}  // namespace graft
