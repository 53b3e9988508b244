#include "server/adapters/key_groups.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/adapters/tensor_values.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

absl::Status AddToGroup(const std::string& key, const TensorView& tensor,
                        KeyMatch match, KeyGroup& group) {
  if (group.module == nullptr) {
    group.module = match.module;
    group.alias = match.alias;
  }
  if (group.alias != match.alias) {
    return GroupError(
        ErrorReason::kAdapterCorrupt, group,
        absl::StrCat("named in two ways, \"", group.alias, "\" and \"",
                     match.alias, "\"; keep one of them"));
  }
  const auto [part, inserted] =
      group.parts.emplace(match.part, KeyedTensor{key, tensor});
  if (!inserted) {
    return GroupError(ErrorReason::kAdapterCorrupt, group,
                      absl::StrCat("\"", part->second.key, "\" and \"", key,
                                   "\" are the same part; keep one of them"));
  }
  return absl::OkStatus();
}

// True if the tensors are all of a LoRA or full difference that is zero.
bool ChangesNothing(const KeyGroup& group) {
  const size_t scales = group.Find(KeyPart::kAlpha) == nullptr ? 0 : 1;
  std::vector<const KeyedTensor*> factors = {group.Find(KeyPart::kDiff)};
  if (factors[0] == nullptr) {
    factors = {group.Find(KeyPart::kDown), group.Find(KeyPart::kUp)};
  }
  if (group.parts.size() != factors.size() + scales) return false;
  bool zero = false;
  for (const KeyedTensor* const factor : factors) {
    if (factor == nullptr || !IsFloatingPoint(factor->tensor.dtype)) {
      return false;
    }
    const TensorContent content = ScanTensor(factor->tensor);
    if (content == TensorContent::kNonFinite) return false;
    zero |= content == TensorContent::kAllZero;
  }
  return zero;
}

}  // namespace

const KeyedTensor* KeyGroup::Find(KeyPart part) const {
  const auto found = parts.find(part);
  return found == parts.end() ? nullptr : &found->second;
}

absl::Status GroupError(ErrorReason reason, const KeyGroup& group,
                        absl::string_view problem) {
  return Error(reason, absl::StrCat(group.module->name, ": ", problem),
               {{"module", group.module->name}});
}

absl::Status TensorError(ErrorReason reason, const KeyGroup& group,
                         const KeyedTensor& tensor, absl::string_view problem) {
  const std::string key = EscapeUntrusted(tensor.key);
  return Error(
      reason,
      absl::StrCat(group.module->name, ": tensor \"", key, "\": ", problem),
      {{"module", group.module->name}, {"tensor", key}});
}

absl::StatusOr<GroupedKeys> GroupKeys(const SafetensorsFile& file,
                                      const KeyNames& names,
                                      absl::string_view component) {
  GroupedKeys keys;
  std::map<std::string, KeyGroup> projections;  // of IsUnusedProjection
  for (const auto& [key, tensor] : file.tensors()) {
    if (IsBundledEmbedding(key)) {
      keys.not_applied.push_back(key);
      continue;
    }
    std::optional<KeyMatch> match = names.Find(key, component);
    if (match.has_value() && match->module == nullptr &&
        IsUnusedProjection(match->alias) &&
        projections[match->alias]
            .parts.emplace(match->part, KeyedTensor{key, tensor})
            .second) {
      continue;
    }
    if (!match.has_value() || match->module == nullptr) {
      keys.unmatched.push_back(key);
      continue;
    }
    keys.formats.insert(match->format);
    KeyGroup& group = keys.groups[match->module->name];
    GRAFT_RETURN_IF_ERROR(AddToGroup(key, tensor, *std::move(match), group));
  }
  for (const auto& [alias, group] : projections) {
    auto& list = ChangesNothing(group) ? keys.not_applied : keys.unmatched;
    for (const auto& [part, tensor] : group.parts) list.push_back(tensor.key);
  }
  return keys;
}

}  // namespace graft
