#include "server/adapters/adapter_metadata.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/common/error.h"

namespace graft {
namespace {

constexpr size_t kMaxTags = 8;
constexpr size_t kMaxWordBytes = 256;
constexpr size_t kMaxTagJsonBytes = size_t{1} << 20;
constexpr size_t kMaxValueBytes = 1024;
constexpr size_t kMaxEntries = 128;

// The value of `key`, empty if missing; trainers write "None" for nothing.
absl::string_view Value(const FileMetadata& metadata, const char* key) {
  const auto entry = metadata.find(key);
  if (entry == metadata.end()) return {};
  const absl::string_view value =
      absl::StripAsciiWhitespace(absl::string_view(entry->second));
  return value == "None" ? absl::string_view() : value;
}

std::string Shown(absl::string_view text) {
  return EscapeUntrusted(text, kMaxWordBytes);
}

// Sums `json`, folder -> tag -> count, over the folders. What has another shape
// is left out: nothing depends on it.
std::map<std::string, int64_t> SumTags(const nlohmann::json& json) {
  std::map<std::string, int64_t> counts;
  if (!json.is_object()) return counts;
  for (const auto& folder : json) {
    if (!folder.is_object()) continue;
    for (const auto& [tag, count] : folder.items()) {
      if (count.is_number_unsigned()) {
        // Capped, so that sums cannot overflow.
        counts[tag] += static_cast<int64_t>(
            std::min<uint64_t>(count.get<uint64_t>(), UINT32_MAX));
      }
    }
  }
  return counts;
}

std::vector<std::string> MostFrequentTags(absl::string_view text) {
  if (text.empty() || text.size() > kMaxTagJsonBytes) return {};
  // Only the two levels that are wanted are built.
  const nlohmann::json::parser_callback_t two_levels =
      [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        return depth <= 2;
      };
  const auto counts =
      SumTags(nlohmann::json::parse(text.begin(), text.end(), two_levels,
                                    /*allow_exceptions=*/false));
  std::vector<std::pair<std::string, int64_t>> tags(counts.begin(),
                                                    counts.end());
  // Stable: equal counts stay in byte order.
  std::stable_sort(tags.begin(), tags.end(), [](const auto& a, const auto& b) {
    return a.second > b.second;
  });
  if (tags.size() > kMaxTags) tags.resize(kMaxTags);
  std::vector<std::string> words;
  for (const auto& [tag, count] : tags) {
    const absl::string_view word = absl::StripAsciiWhitespace(tag);
    if (!word.empty()) words.push_back(Shown(word));
  }
  return words;
}

}  // namespace

std::vector<std::string> TriggerWords(const FileMetadata& metadata) {
  const absl::string_view phrase = Value(metadata, "modelspec.trigger_phrase");
  if (!phrase.empty()) return {Shown(phrase)};
  std::vector<std::string> tags =
      MostFrequentTags(Value(metadata, "ss_tag_frequency"));
  if (!tags.empty()) return tags;
  const absl::string_view output_name = Value(metadata, "ss_output_name");
  if (!output_name.empty()) return {Shown(output_name)};
  return {};
}

std::string BaseHint(const FileMetadata& metadata) {
  absl::string_view family = Value(metadata, "ss_base_model_version");
  if (family.empty()) family = Value(metadata, "modelspec.architecture");
  const absl::string_view model = Value(metadata, "ss_sd_model_name");
  if (model.empty()) return Shown(family);
  if (family.empty()) return Shown(model);
  return absl::StrCat(Shown(family), " (", Shown(model), ")");
}

FileMetadata DisplayMetadata(const FileMetadata& metadata) {
  FileMetadata shown;
  for (const auto& [key, value] : metadata) {
    if (shown.size() == kMaxEntries) break;
    shown[Shown(key)] = EscapeUntrusted(value, kMaxValueBytes);
  }
  return shown;
}

}  // namespace graft
