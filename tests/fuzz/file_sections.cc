#include "tests/fuzz/file_sections.h"

#include <unistd.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

constexpr absl::string_view kMark = "=== ";

// Static, so that it is removed when the process ends in order.
const TempDir& Directory() {
  static const TempDir directory;
  return directory;
}

std::map<std::string, std::string> SplitSections(absl::string_view input) {
  std::map<std::string, std::string> files;
  std::string* text = nullptr;
  for (absl::string_view line : absl::StrSplit(input, '\n')) {
    if (absl::ConsumePrefix(&line, kMark)) {
      text = &files[std::string(line)];
      text->clear();
    } else if (text != nullptr) {
      absl::StrAppend(text, text->empty() ? "" : "\n", line);
    }
  }
  return files;
}

}  // namespace

std::string JoinSections(const FileSections& files) {
  std::string input;
  for (const auto& [name, text] : files) {
    absl::StrAppend(&input, kMark, name, "\n", text, "\n");
  }
  return input;
}

FuzzFolder::FuzzFolder(std::vector<std::string> names)
    : names_(std::move(names)), path_(Directory().path()) {}

const std::string& FuzzFolder::Fill(
    absl::string_view input,
    const std::function<std::string(absl::string_view, std::string)>& convert) {
  std::map<std::string, std::string> files = SplitSections(input);
  for (const std::string& name : names_) {
    const auto file = files.find(name);
    if (file == files.end()) {
      unlink(Directory().File(name).c_str());
    } else {
      Directory().Write(name, convert(name, std::move(file->second)));
    }
  }
  return path_;
}

}  // namespace graft
