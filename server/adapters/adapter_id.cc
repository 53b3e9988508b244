#include "server/adapters/adapter_id.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/common/error.h"

namespace graft {
namespace {

constexpr size_t kMaxIdBytes = 128;
constexpr absl::string_view kRule =
    "a letter or digit, then up to 127 letters, digits, '.', '_' or '-'";

bool IsIdCharacter(char c) {
  return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
}

absl::string_view FileStem(absl::string_view path) {
  path = absl::StripSuffix(path, "/");  // of a folder
  const size_t slash = path.rfind('/');
  if (slash != absl::string_view::npos) path.remove_prefix(slash + 1);
  return absl::StripSuffix(path, ".safetensors");
}

}  // namespace

bool IsValidAdapterId(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxIdBytes &&
         absl::ascii_isalnum(name[0]) &&
         std::all_of(name.begin(), name.end(), IsIdCharacter);
}

std::string SuggestAdapterId(absl::string_view text) {
  std::string id;
  for (const char c : text) {
    if (id.size() == kMaxIdBytes) break;
    if (id.empty() && !absl::ascii_isalnum(c)) continue;
    if (IsIdCharacter(c)) {
      id += c;
    } else if (id.back() != '-') {
      id += '-';
    }
  }
  // What is left of characters that had to go looks like a mistake.
  while (!id.empty() && !absl::ascii_isalnum(id.back())) id.pop_back();
  return id.empty() ? "adapter" : id;
}

absl::StatusOr<std::string> ChooseAdapterId(absl::string_view name,
                                            absl::string_view path) {
  const absl::string_view wanted = name.empty() ? FileStem(path) : name;
  if (IsValidAdapterId(wanted)) return std::string(wanted);
  return InvalidField(
      "name",
      absl::StrCat("\"", EscapeUntrusted(wanted), "\"",
                   name.empty() ? ", the name of the file or folder," : "",
                   " is no valid name (", kRule, "); use for example \"",
                   SuggestAdapterId(wanted), "\""));
}

}  // namespace graft
