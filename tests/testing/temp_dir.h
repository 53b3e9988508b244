#ifndef GRAFT_TESTS_TESTING_TEMP_DIR_H_
#define GRAFT_TESTS_TESTING_TEMP_DIR_H_

#include <string>

#include "absl/strings/string_view.h"

namespace graft {

// A directory of its own for one test, removed with all its content at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }

  // The absolute path of `relative`.
  std::string File(absl::string_view relative) const;

  // Writes a file, with the folders that it needs, and returns File(relative).
  std::string Write(absl::string_view relative, absl::string_view bytes) const;

 private:
  std::string path_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_TEMP_DIR_H_
