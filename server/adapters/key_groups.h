#ifndef GRAFT_SERVER_ADAPTERS_KEY_GROUPS_H_
#define GRAFT_SERVER_ADAPTERS_KEY_GROUPS_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/key_names.h"
#include "server/adapters/key_suffixes.h"
#include "server/common/error.h"
#include "server/engine/module_table.h"
#include "server/safetensors/safetensors_file.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

struct KeyedTensor {
  std::string key;
  TensorView tensor;
};

// All tensors of a file that belong to one module.
struct KeyGroup {
  const ModuleInfo* module = nullptr;
  std::string alias;  // the file's name for the module
  std::map<KeyPart, KeyedTensor> parts;

  // Null if there is no such part.
  const KeyedTensor* Find(KeyPart part) const;
};

// An error about one group, whose message and metadata name the module.
absl::Status GroupError(ErrorReason reason, const KeyGroup& group,
                        absl::string_view problem);

// The same about one of its tensors, which the metadata names too.
absl::Status TensorError(ErrorReason reason, const KeyGroup& group,
                         const KeyedTensor& tensor, absl::string_view problem);

// A file's tensors, sorted out.
struct GroupedKeys {
  std::map<std::string, KeyGroup> groups;  // by canonical module name
  std::vector<std::string> unmatched;      // fit no module, or end unknown
  // Bundled embeddings, and a change of zero of IsUnusedProjection.
  std::vector<std::string> not_applied;
  std::set<KeyFormat> formats;  // of those in `groups`
};

// Sorts the tensors of `file` by module. ADAPTER_CORRUPT if the file names one
// module in two ways, or one part of it twice: either could be meant.
// `component` as for KeyNames::Find.
absl::StatusOr<GroupedKeys> GroupKeys(const SafetensorsFile& file,
                                      const KeyNames& names,
                                      absl::string_view component);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_KEY_GROUPS_H_
