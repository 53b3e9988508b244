#include "server/common/temporary_files.h"

#include <filesystem>
#include <optional>
#include <string>

#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

TEST(TemporaryFilesTest, OnlyThoseThatLiveAreRemoved) {
  const TempDir dir;
  const TemporaryFile half(dir.Write("half", "x"));
  std::optional<TemporaryFile> whole(dir.Write("whole", "x"));
  whole.reset();
  RemoveTemporaryFiles();
  EXPECT_FALSE(std::filesystem::exists(dir.File("half")));
  EXPECT_TRUE(std::filesystem::exists(dir.File("whole")));
}

TEST(TemporaryFilesTest, ThatAreGoneAlreadyAreNoMatter) {
  const TempDir dir;
  const TemporaryFile gone(dir.File("gone"));
  RemoveTemporaryFiles();
  EXPECT_EQ(gone.path(), dir.File("gone"));
}

}  // namespace
}  // namespace graft
