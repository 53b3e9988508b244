#include "server/adapters/open_beneath.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using Opener = FileDescriptor (*)(int, const std::string&);

class OpenBeneathTest : public testing::TestWithParam<Opener> {
 protected:
  OpenBeneathTest() {
    dir_.Write("root/folder/file", "inside");
    dir_.Write("secret", "outside");
    directory_ = FileDescriptor(
        open(dir_.File("root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }

  void Link(const std::string& target, const std::string& name) {
    std::filesystem::create_symlink(target, dir_.File("root/" + name));
  }

  FileDescriptor Open(const std::string& path) {
    return GetParam()(directory_.get(), path);
  }

  // The content of the file at `path`, or errno's name for it.
  std::string Read(const std::string& path) {
    const FileDescriptor file = Open(path);
    if (!file.valid()) return std::to_string(errno);
    char text[16] = {};
    const ssize_t count = read(file.get(), text, sizeof(text) - 1);
    return std::string(text, count < 0 ? 0 : count);
  }

  TempDir dir_;
  FileDescriptor directory_;
};

TEST_P(OpenBeneathTest, OpensFilesInFolders) {
  EXPECT_EQ(Read("folder/file"), "inside");
  EXPECT_EQ(Read("folder//file"), "inside");
}

TEST_P(OpenBeneathTest, MissingFilesAndFoldersAreNotFound) {
  EXPECT_EQ(Read("folder/none"), std::to_string(ENOENT));
  EXPECT_EQ(Read("none/file"), std::to_string(ENOENT));
  EXPECT_EQ(Read("folder/file/more"), std::to_string(ENOTDIR));
}

TEST_P(OpenBeneathTest, LinksThatLeadOutsideAreNotFollowed) {
  Link("../secret", "up");
  Link(dir_.File("secret"), "absolute");
  Link("..", "parent");
  Link("folder/../../secret", "roundabout");
  for (const char* path : {"up", "absolute", "parent/secret", "roundabout"}) {
    EXPECT_FALSE(Open(path).valid()) << path;
    EXPECT_TRUE(errno == EXDEV || errno == ELOOP) << path << " " << errno;
  }
}

TEST_P(OpenBeneathTest, MagicLinksAreNotFollowed) {
  Link("/proc/self/exe", "magic");
  EXPECT_FALSE(Open("magic").valid());
}

TEST_P(OpenBeneathTest, LinksInACircleEnd) {
  Link("b", "a");
  Link("a", "b");
  EXPECT_EQ(Read("a"), std::to_string(ELOOP));
}

INSTANTIATE_TEST_SUITE_P(AllWays, OpenBeneathTest,
                         testing::Values(&OpenBeneath, &OpenBeneathByKernel,
                                         &OpenBeneathByComponent));

class OpenBeneathByKernelTest : public OpenBeneathTest {};

TEST_P(OpenBeneathByKernelTest, LinksThatStayInsideAreFollowed) {
  Link("folder/file", "inside");
  Link("folder", "directory");
  EXPECT_EQ(Read("inside"), "inside");
  EXPECT_EQ(Read("directory/file"), "inside");
}

INSTANTIATE_TEST_SUITE_P(Kernel, OpenBeneathByKernelTest,
                         testing::Values(&OpenBeneathByKernel));

TEST(FileDescriptorTest, ClosesOnceAndKeepsErrno) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  {
    FileDescriptor first(fds[0]);
    const FileDescriptor second = std::move(first);
    EXPECT_FALSE(first.valid());
    EXPECT_TRUE(second.valid());
    errno = ENXIO;
  }
  EXPECT_EQ(errno, ENXIO);
  EXPECT_EQ(fcntl(fds[0], F_GETFD), -1);
  close(fds[1]);
}

}  // namespace
}  // namespace graft
