#include "tests/testing/temp_dir.h"

#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace graft {

TempDir::TempDir() {
  std::string pattern = absl::StrCat(testing::TempDir(), "/graft-XXXXXX");
  const char* const made = mkdtemp(pattern.data());
  if (made == nullptr) std::abort();
  // Resolved, so that tests can compare paths.
  path_ = std::filesystem::canonical(made).string();
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::File(absl::string_view relative) const {
  return absl::StrCat(path_, "/", relative);
}

std::string TempDir::Write(absl::string_view relative,
                           absl::string_view bytes) const {
  const std::string path = File(relative);
  std::filesystem::create_directories(
      std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace graft
