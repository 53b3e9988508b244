#include "server/rpc/file_renaming.h"

#include <fcntl.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/open_beneath.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::Pair;

// By renameat2, and as where that cannot.
class FileRenamingTest : public testing::TestWithParam<bool> {
 protected:
  bool RenameToFree(const std::string& from, const std::string& to) {
    return GetParam() ? RenameToFreeNameByLinks(directory_.get(), from, to)
                      : RenameToFreeName(directory_.get(), from, to);
  }

  bool Exchange(const std::string& from, const std::string& to) {
    return GetParam()
               ? ExchangeNamesByLinks(directory_.get(), from, to, "spare")
               : ExchangeNames(directory_.get(), from, to, "spare");
  }

  // Name to content.
  std::map<std::string, std::string> Files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder_.path())) {
      std::ifstream file(entry.path());
      files[entry.path().filename().string()] =
          std::string(std::istreambuf_iterator<char>(file), {});
    }
    return files;
  }

  TempDir folder_;
  const FileDescriptor directory_{
      open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
};

TEST_P(FileRenamingTest, FreeNameIsTaken) {
  folder_.Write("new", "1");
  EXPECT_TRUE(RenameToFree("new", "ink"));
  EXPECT_THAT(Files(), ElementsAre(Pair("ink", "1")));
}

TEST_P(FileRenamingTest, TakenNameStays) {
  folder_.Write("new", "1");
  folder_.Write("ink", "2");
  EXPECT_FALSE(RenameToFree("new", "ink"));
  EXPECT_EQ(errno, EEXIST);
  EXPECT_THAT(Files(), ElementsAre(Pair("ink", "2"), Pair("new", "1")));
}

TEST_P(FileRenamingTest, TwoChangeNames) {
  folder_.Write("new", "1");
  folder_.Write("ink", "2");
  EXPECT_TRUE(Exchange("new", "ink"));
  EXPECT_THAT(Files(), ElementsAre(Pair("ink", "1"), Pair("new", "2")));
}

TEST_P(FileRenamingTest, NothingChangesWhereOneIsMissing) {
  folder_.Write("ink", "2");
  EXPECT_FALSE(Exchange("new", "ink"));
  EXPECT_EQ(errno, ENOENT);
  EXPECT_FALSE(Exchange("ink", "new"));
  EXPECT_EQ(errno, ENOENT);
  EXPECT_THAT(Files(), ElementsAre(Pair("ink", "2")));
}

INSTANTIATE_TEST_SUITE_P(Ways, FileRenamingTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "ByLinks" : "ByKernel";
                         });

}  // namespace
}  // namespace graft
