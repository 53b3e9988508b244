#include "server/adapters/key_names.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "server/adapters/unet_paths.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

constexpr absl::string_view kFlatPrefixes[] = {"lora_unet_", "lora_te_",
                                               "lora_te1_",  "lora_te2_",
                                               "lycoris_",   "oft_unet_"};

// Of the first text encoder.
constexpr absl::string_view kDottedTextPrefixes[] = {
    "text_encoder.", "text_encoders.clip_l.transformer.",
    "text_encoders.clip_h.transformer.", "clip_l."};

constexpr absl::string_view kPeftLevel = "base_model.model.";

// More than the names of modules have.
constexpr int kMaxDots = 16;

bool IsFlat(absl::string_view key) {
  return std::any_of(std::begin(kFlatPrefixes), std::end(kFlatPrefixes),
                     [key](absl::string_view prefix) {
                       return absl::StartsWith(key, prefix);
                     });
}

// `path`, the whole or the beginning of a key with dots, as the table has it.
std::string Normalise(absl::string_view path, absl::string_view component) {
  std::string alias =
      absl::StrReplaceAll(path, {{kPeftLevel, ""}, {".processor.", "."}});
  if (component.empty() || !absl::StartsWith(path, kPeftLevel)) return alias;
  return absl::StrCat(component, ".", alias);
}

std::string Flatten(absl::string_view path) {
  return absl::StrReplaceAll(path, {{".", "_"}});
}

absl::Status Insert(absl::flat_hash_map<std::string, const ModuleInfo*>& table,
                    std::string alias, const ModuleInfo& module) {
  const auto [entry, inserted] = table.emplace(std::move(alias), &module);
  if (inserted || entry->second == &module) return absl::OkStatus();
  return Error(ErrorReason::kInternal,
               absl::StrCat("the name \"", entry->first,
                            "\" stands for two modules of the base: ",
                            entry->second->name, " and ", module.name));
}

// PEFT writes its adapter's name into keys: "x.lora_A.default.weight". Returns
// the key without it.
std::string WithoutAdapterName(absl::string_view key) {
  for (const absl::string_view factor :
       {".lora_A.", ".lora_B.", ".lora_magnitude_vector."}) {
    const size_t start = key.rfind(factor);
    if (start == absl::string_view::npos) continue;
    const size_t name = start + factor.size();
    const size_t dot = key.find('.', name);
    if (dot == absl::string_view::npos) continue;
    const absl::string_view end = key.substr(dot);
    if (end == ".weight" || end == ".bias") {
      return absl::StrCat(key.substr(0, name - 1), end);
    }
  }
  return std::string(key);
}

// Old diffusers files name the text encoder's projections like the U-Net's.
std::string WithTextProjectionName(absl::string_view path) {
  static constexpr std::pair<absl::string_view, absl::string_view> kNames[] = {
      {".to_q", ".q_proj"},
      {".to_k", ".k_proj"},
      {".to_v", ".v_proj"},
      {".to_out", ".out_proj"}};
  for (const auto& [unet, text] : kNames) {
    if (absl::EndsWith(path, unet)) {
      return absl::StrCat(absl::StripSuffix(path, unet), text);
    }
  }
  return std::string(path);
}

}  // namespace

bool IsBundledEmbedding(absl::string_view key) {
  return absl::StartsWith(key, "bundle_emb.");
}

bool IsUnusedProjection(absl::string_view alias) {
  return std::any_of(
      std::begin(kDottedTextPrefixes), std::end(kDottedTextPrefixes),
      [alias](absl::string_view prefix) {
        absl::string_view path = alias;
        return absl::ConsumePrefix(&path, prefix) && path == "text_projection";
      });
}

absl::StatusOr<KeyNames> KeyNames::Create(const ModuleTable* modules) {
  const UnetPaths unet_paths(*modules);
  KeyNames names;
  for (const ModuleInfo& module : modules->modules) {
    absl::string_view path = module.name;
    if (absl::ConsumePrefix(&path, "unet.")) {
      GRAFT_RETURN_IF_ERROR(names.AddUnetPath(path, module));
      const std::optional<std::string> original = unet_paths.ToOriginal(path);
      if (original.has_value()) {
        GRAFT_RETURN_IF_ERROR(names.AddUnetPath(*original, module));
        GRAFT_RETURN_IF_ERROR(names.AddOriginalUnetPath(*original, module));
      }
    } else if (absl::ConsumePrefix(&path, "text_encoder.")) {
      GRAFT_RETURN_IF_ERROR(names.AddTextEncoderPath(1, path, module));
    } else if (absl::ConsumePrefix(&path, "text_encoder_2.")) {
      GRAFT_RETURN_IF_ERROR(names.AddTextEncoderPath(2, path, module));
    }
  }
  return names;
}

absl::Status KeyNames::AddFlat(std::string alias, const ModuleInfo& module) {
  return Insert(flat_, std::move(alias), module);
}

absl::Status KeyNames::AddDotted(const std::string& alias,
                                 const ModuleInfo& module) {
  // Old diffusers files leave the last ".0" of "to_out.0" out.
  if (absl::EndsWith(alias, ".to_out.0")) {
    GRAFT_RETURN_IF_ERROR(
        Insert(dotted_, std::string(absl::StripSuffix(alias, ".0")), module));
  }
  return Insert(dotted_, alias, module);
}

absl::Status KeyNames::AddUnetPath(absl::string_view path,
                                   const ModuleInfo& module) {
  const std::string flat = Flatten(path);
  for (const absl::string_view prefix :
       {"lora_unet_", "lycoris_", "oft_unet_"}) {
    GRAFT_RETURN_IF_ERROR(AddFlat(absl::StrCat(prefix, flat), module));
  }
  for (const absl::string_view prefix : {"unet.", ""}) {
    GRAFT_RETURN_IF_ERROR(AddDotted(absl::StrCat(prefix, path), module));
  }
  return absl::OkStatus();
}

absl::Status KeyNames::AddOriginalUnetPath(absl::string_view path,
                                           const ModuleInfo& module) {
  for (const absl::string_view prefix :
       {"diffusion_model.", "model.diffusion_model."}) {
    GRAFT_RETURN_IF_ERROR(AddDotted(absl::StrCat(prefix, path), module));
  }
  return absl::OkStatus();
}

absl::Status KeyNames::AddTextEncoderPath(int encoder, absl::string_view path,
                                          const ModuleInfo& module) {
  using Prefixes = std::vector<absl::string_view>;
  const Prefixes flat_prefixes =
      encoder == 1 ? Prefixes{"lora_te_", "lora_te1_", "lycoris_"}
                   : Prefixes{"lora_te2_"};
  const Prefixes dotted_prefixes =
      encoder == 1 ? Prefixes(std::begin(kDottedTextPrefixes),
                              std::end(kDottedTextPrefixes))
                   : Prefixes{"text_encoder_2.",
                              "text_encoders.clip_g.transformer.", "clip_g."};
  // Recent encoders lack the level "text_model.".
  for (const absl::string_view variant :
       {path, absl::StripPrefix(path, "text_model.")}) {
    for (const absl::string_view prefix : flat_prefixes) {
      GRAFT_RETURN_IF_ERROR(
          AddFlat(absl::StrCat(prefix, Flatten(variant)), module));
    }
    for (const absl::string_view prefix : dotted_prefixes) {
      GRAFT_RETURN_IF_ERROR(AddDotted(absl::StrCat(prefix, variant), module));
    }
  }
  return absl::OkStatus();
}

std::optional<KeyMatch> KeyNames::Find(absl::string_view key,
                                       absl::string_view component) const {
  return IsFlat(key) ? FindFlat(key) : FindDotted(key, component);
}

std::string KeyNames::UnknownEnd(absl::string_view key,
                                 absl::string_view component) const {
  if (Find(key, component).has_value()) return "";
  if (IsFlat(key)) {
    const size_t dot = std::min(key.find('.'), key.size());
    return flat_.contains(key.substr(0, dot)) ? std::string(key.substr(dot))
                                              : "";
  }
  const std::string path = Normalise(key, component);
  std::string end;
  size_t dot = path.find('.');
  for (int i = 0; i < kMaxDots && dot != std::string::npos; ++i) {
    if (LookUpDotted(path.substr(0, dot)) != nullptr) end = path.substr(dot);
    dot = path.find('.', dot + 1);
  }
  return end;
}

const ModuleInfo* KeyNames::LookUpDotted(const std::string& alias) const {
  auto found = dotted_.find(alias);
  if (found == dotted_.end()) {
    found = dotted_.find(WithTextProjectionName(alias));
  }
  return found == dotted_.end() ? nullptr : found->second;
}

std::optional<KeyMatch> KeyNames::FindFlat(absl::string_view key) const {
  const size_t dot = key.find('.');
  if (dot == absl::string_view::npos) return std::nullopt;
  const std::optional<KeyPart> part = FindFlatSuffix(key.substr(dot));
  if (!part.has_value()) return std::nullopt;
  KeyMatch match{KeyFormat::kKohya, std::string(key.substr(0, dot)), nullptr,
                 *part};
  const auto found = flat_.find(match.alias);
  if (found != flat_.end()) match.module = found->second;
  return match;
}

std::optional<KeyMatch> KeyNames::FindDotted(
    absl::string_view key, absl::string_view component) const {
  const std::string unnamed = WithoutAdapterName(key);
  const std::optional<DottedSuffix> split = SplitDottedKey(unnamed);
  if (!split.has_value()) return std::nullopt;
  const bool peft = absl::StrContains(split->path, kPeftLevel);
  KeyMatch match{peft ? KeyFormat::kPeft : KeyFormat::kDiffusers,
                 Normalise(split->path, component), nullptr, split->part};
  match.module = LookUpDotted(match.alias);
  return match;
}

}  // namespace graft
