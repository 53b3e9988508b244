#ifndef GRAFT_SERVER_ADAPTERS_KEY_NAMES_H_
#define GRAFT_SERVER_ADAPTERS_KEY_NAMES_H_

#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/key_suffixes.h"
#include "server/engine/module_table.h"

namespace graft {

// Who names tensors like this.
enum class KeyFormat {
  kKohya,      // "lora_unet_mid_block_resnets_0_conv1.lora_up.weight"
  kDiffusers,  // "unet.mid_block.resnets.0.conv1.lora_B.weight"
  kPeft,       // "base_model.model.mid_block.resnets.0.conv1.lora_B.weight"
};

// True for the key of a trained word, which may be in the same file as the LoRA
// that goes with it.
bool IsBundledEmbedding(absl::string_view key);

// True for the name of a module (KeyMatch::alias) that is the projection behind
// the first text encoder. No base uses it there, so none has it, but ComfyUI
// stores it with the encoder and extracts adapters of it.
bool IsUnusedProjection(absl::string_view alias);

// What a tensor's key says.
struct KeyMatch {
  KeyFormat format = KeyFormat::kKohya;
  // The module's name, normalised; two keys of one module that differ in it
  // name the module twice.
  std::string alias;
  const ModuleInfo* module = nullptr;  // null: no module has this name
  KeyPart part = KeyPart::kAlpha;
};

// Tells which module of the base a tensor's key belongs to.
//
// Names in which '_' replaces '.' cannot be split back by rule, as the modules'
// own names contain '_'. So the names of all modules in all spellings are
// written into two tables, one of flat names and one of dotted paths, and keys
// are looked up. Immutable, thread-safe.
class KeyNames {
 public:
  // `modules` outlives the table. INTERNAL if one name stands for two modules.
  static absl::StatusOr<KeyNames> Create(const ModuleTable* modules);

  // nullopt for a key whose end is no known suffix. `component` ("unet",
  // "text_encoder"; empty: the U-Net) is what keys belong to that begin with
  // "base_model.model." and so do not say.
  std::optional<KeyMatch> Find(absl::string_view key,
                               absl::string_view component = "") const;

  // Of a key whose end is no known suffix, but which begins with the name of a
  // module, what follows the name: ".oft_R.weight". Empty for all others.
  std::string UnknownEnd(absl::string_view key,
                         absl::string_view component = "") const;

 private:
  using Table = absl::flat_hash_map<std::string, const ModuleInfo*>;

  KeyNames() = default;

  absl::Status AddFlat(std::string alias, const ModuleInfo& module);
  absl::Status AddDotted(const std::string& alias, const ModuleInfo& module);
  // `path`: of the U-Net's module, in either naming scheme.
  absl::Status AddUnetPath(absl::string_view path, const ModuleInfo& module);
  absl::Status AddOriginalUnetPath(absl::string_view path,
                                   const ModuleInfo& module);
  // `path`: of the module of text encoder number `encoder` (from 1).
  absl::Status AddTextEncoderPath(int encoder, absl::string_view path,
                                  const ModuleInfo& module);

  // Null if no module has this name.
  const ModuleInfo* LookUpDotted(const std::string& alias) const;

  std::optional<KeyMatch> FindFlat(absl::string_view key) const;
  std::optional<KeyMatch> FindDotted(absl::string_view key,
                                     absl::string_view component) const;

  Table flat_;
  Table dotted_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_KEY_NAMES_H_
