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

using Json = nlohmann::json;

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

// Sums {folder: {tag: count}} over the folders. What has another shape is left
// out: nothing depends on it. A handler of the parser's events, as its tree
// with a filter takes time that grows with the square of an array's length.
class TagCounter final : public nlohmann::json_sax<Json> {
 public:
  const std::map<std::string, int64_t>& counts() const { return counts_; }

  bool start_object(size_t /*elements*/) override {
    ++depth_;
    if (depth_ == 1) in_folders_ = true;
    if (depth_ == 2) in_tags_ = in_folders_;
    return true;
  }
  bool start_array(size_t /*elements*/) override {
    ++depth_;
    if (depth_ == 2) in_tags_ = false;
    return true;
  }
  bool end_object() override { return Ascend(); }
  bool end_array() override { return Ascend(); }

  bool key(Json::string_t& name) override {
    if (depth_ == 2) tag_ = name;
    return true;
  }
  bool number_unsigned(Json::number_unsigned_t count) override {
    if (depth_ == 2 && in_tags_) {
      // Capped, so that sums cannot overflow.
      counts_[tag_] +=
          static_cast<int64_t>(std::min<uint64_t>(count, UINT32_MAX));
    }
    return true;
  }

  bool null() override { return true; }
  bool boolean(bool /*value*/) override { return true; }
  bool number_integer(Json::number_integer_t /*value*/) override {
    return true;
  }
  bool number_float(Json::number_float_t /*value*/,
                    const Json::string_t& /*literal*/) override {
    return true;
  }
  bool string(Json::string_t& /*value*/) override { return true; }
  bool binary(Json::binary_t& /*value*/) override { return true; }
  bool parse_error(size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return false;
  }

 private:
  bool Ascend() {
    --depth_;
    return true;
  }

  int depth_ = 0;
  bool in_folders_ = false;  // the outermost value is an object
  bool in_tags_ = false;     // and so is the one at depth 2
  std::string tag_;
  std::map<std::string, int64_t> counts_;
};

std::vector<std::string> MostFrequentTags(absl::string_view text) {
  if (text.empty() || text.size() > kMaxTagJsonBytes) return {};
  TagCounter counter;
  if (!Json::sax_parse(text.begin(), text.end(), &counter)) return {};
  std::vector<std::pair<std::string, int64_t>> tags(counter.counts().begin(),
                                                    counter.counts().end());
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
