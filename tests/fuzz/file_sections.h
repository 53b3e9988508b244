#ifndef GRAFT_TESTS_FUZZ_FILE_SECTIONS_H_
#define GRAFT_TESTS_FUZZ_FILE_SECTIONS_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft {

// A folder in one input: a line "=== NAME" before the text of each file.
using FileSections = std::vector<std::pair<std::string, std::string>>;

std::string JoinSections(const FileSections& files);

// A folder with those files of an input that are among `names`, and no others.
// The same one each time, removed at the end of the process.
class FuzzFolder {
 public:
  explicit FuzzFolder(std::vector<std::string> names);

  // `convert` is given each file's name and text, and returns its bytes.
  // Returns the folder's path.
  const std::string& Fill(
      absl::string_view input,
      const std::function<std::string(absl::string_view, std::string)>&
          convert);

 private:
  const std::vector<std::string> names_;
  std::string path_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_FUZZ_FILE_SECTIONS_H_
