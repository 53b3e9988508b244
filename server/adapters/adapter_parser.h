#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_PARSER_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_PARSER_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_info.h"
#include "server/adapters/key_names.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/module_table.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {

// A file's content, checked against the base.
struct ParsedAdapter {
  AdapterWeights weights;
  AdapterReport report;
};

// Makes the weights of an adapter out of a safetensors file. Everything is
// checked before anything is kept: every key belongs to a module of the base,
// every module's tensors are complete, of a known algorithm, of shapes that fit
// and of finite values. Nothing is left out in silence. Immutable, thread-safe.
class AdapterParser {
 public:
  struct Options {
    // Leave out what fits no module or not its shape, or is of an algorithm
    // that is not implemented, and report it. A file of which nothing fits is
    // refused all the same, and so is a damaged one.
    bool allow_partial = false;
    // What the keys of a PEFT folder belong to: "unet" or "text_encoder";
    // empty: "unet".
    std::string component = "";
    // The text of a PEFT folder's adapter_config.json; counts instead of the
    // file's metadata.
    std::optional<std::string> peft_config = std::nullopt;
  };

  // `modules` outlives the parser. INTERNAL if names in it are ambiguous.
  static absl::StatusOr<std::unique_ptr<AdapterParser>> Create(
      const ModuleTable* modules);

  // The weights share the memory of `file`. `name` is for messages, `sha256` is
  // the file's digest.
  //   ADAPTER_KEYS_UNMATCHED    keys that fit no module, with their number, the
  //                             first names and a guess what the file is, or
  //                             the component or key's end that is wrong
  //   ADAPTER_BASE_MISMATCH     the same where it is made for another base, or
  //                             shapes that do not fit
  //   ADAPTER_KIND_UNSUPPORTED  an algorithm that is not implemented, by name
  //   ADAPTER_CORRUPT           incomplete or contradictory
  //   ADAPTER_NON_FINITE        NaN or infinity, naming the tensor
  absl::StatusOr<ParsedAdapter> Parse(const SafetensorsFile& file,
                                      absl::string_view name,
                                      absl::string_view sha256,
                                      const Options& options) const;

 private:
  AdapterParser(const ModuleTable* modules, KeyNames names)
      : modules_(modules), names_(std::move(names)) {}

  const ModuleTable* const modules_;
  const KeyNames names_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_PARSER_H_
