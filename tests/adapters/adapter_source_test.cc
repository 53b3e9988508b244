#include "server/adapters/adapter_source.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

class AdapterSourceTest : public testing::Test {
 protected:
  AdapterSourceTest() { std::filesystem::create_directory(dir_.File("root")); }

  std::string Root() const { return dir_.File("root"); }
  AdapterSource Source() const {
    return AdapterSource({.directory = Root(), .max_file_bytes = 100});
  }
  absl::Status Error(const std::string& path) const {
    return Source().Read(path).status();
  }

  TempDir dir_;
};

TEST_F(AdapterSourceTest, ReadsFilesInSubfoldersWithAnyName) {
  const std::string path = "meine Stile/日本 é.safetensors";
  dir_.Write("root/" + path, "bytes");
  const auto file = Source().Read(path);
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(std::string(file->bytes.begin(), file->bytes.end()), "bytes");
  EXPECT_EQ(file->sha256, Sha256Hex("bytes", 5));
}

TEST_F(AdapterSourceTest, RefusesPathsThatAreNotBelow) {
  dir_.Write("secret.safetensors", "x");
  for (const std::string& path :
       {std::string("/etc/x.safetensors"), dir_.File("root/a.safetensors"),
        std::string(".."), std::string("../secret.safetensors"),
        std::string("a/../../secret.safetensors"), std::string("a/..")}) {
    EXPECT_THAT(Error(path), HasReason(ErrorReason::kPathNotAllowed)) << path;
  }
}

TEST_F(AdapterSourceTest, RefusesPathsThatAreMalformed) {
  const std::string paths[] = {
      "",
      "a\nb.safetensors",
      "a\x7f.safetensors",
      "a\xc2\x85.safetensors",
      "a\xff.safetensors",
      "a\xc0\xae.safetensors",
      std::string("a\0.safetensors", 14),
      std::string(5000, 'a') + ".safetensors",
      std::string(300, 'a') + ".safetensors",
  };
  for (const std::string& path : paths) {
    const absl::Status status = Error(path);
    EXPECT_THAT(status, HasReason(ErrorReason::kInvalidField)) << path;
    EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("field", "path")));
  }
}

TEST_F(AdapterSourceTest, DotsInNamesAreLegal) {
  dir_.Write("root/..a/b...safetensors", "x");
  EXPECT_THAT(Error("..a/b...safetensors"), IsOk());
}

TEST_F(AdapterSourceTest, RefusesLinksThatLeadOutside) {
  dir_.Write("secret.safetensors", "x");
  std::filesystem::create_symlink("../secret.safetensors",
                                  dir_.File("root/a.safetensors"));
  std::filesystem::create_symlink("..", dir_.File("root/up"));
  EXPECT_THAT(Error("a.safetensors"),
              HasReason(ErrorReason::kPathNotAllowed, HasSubstr("link")));
  EXPECT_THAT(Error("up/secret.safetensors"),
              HasReason(ErrorReason::kPathNotAllowed));
}

TEST_F(AdapterSourceTest, FollowsLinksThatStayInside) {
  dir_.Write("root/versions/1.safetensors", "x");
  std::filesystem::create_symlink("versions/1.safetensors",
                                  dir_.File("root/latest.safetensors"));
  EXPECT_THAT(Error("latest.safetensors"), IsOk());
}

TEST_F(AdapterSourceTest, TheDirectoryItselfMayBeALink) {
  dir_.Write("root/a.safetensors", "x");
  std::filesystem::create_symlink("root", dir_.File("link"));
  const AdapterSource source({.directory = dir_.File("link")});
  EXPECT_THAT(source.Read("a.safetensors"), IsOk());
}

TEST_F(AdapterSourceTest, NamesPicklesAndWhatToDo) {
  for (const char* path : {"a.pt", "a.CKPT", "a.bin", "a.pth", "a.pkl"}) {
    dir_.Write(std::string("root/") + path, "x");
    EXPECT_THAT(Error(path),
                HasReason(ErrorReason::kAdapterCorrupt,
                          AllOf(HasSubstr("pickles execute code"),
                                HasSubstr("convert to safetensors"))));
  }
}

TEST_F(AdapterSourceTest, TakesSafetensorsOnly) {
  for (const char* path : {"a", "a.zip", "safetensors", "a.safetensors.tmp"}) {
    dir_.Write(std::string("root/") + path, "x");
    EXPECT_THAT(Error(path),
                HasReason(ErrorReason::kAdapterCorrupt,
                          AllOf(HasSubstr("not a .safetensors file"),
                                Not(HasSubstr("pickle")))));
  }
}

TEST_F(AdapterSourceTest, AMissingFileIsNotFoundAndNamed) {
  const absl::Status status = Error("none/a.safetensors");
  EXPECT_THAT(status, HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_THAT(GetErrorMetadata(status),
              AllOf(Contains(Pair("resource_type", "AdapterFile")),
                    Contains(Pair("resource_name", "none/a.safetensors"))));
}

TEST_F(AdapterSourceTest, TellsWhenThereIsNoDirectory) {
  EXPECT_THAT(
      AdapterSource({}).Read("a.safetensors"),
      HasReason(ErrorReason::kAdapterDirNotSet, HasSubstr("--adapter_dir")));
}

TEST_F(AdapterSourceTest, TheDirectoryMayComeLater) {
  const AdapterSource source({.directory = dir_.File("later")});
  EXPECT_THAT(source.Read("a.safetensors"),
              HasReason(ErrorReason::kAdapterNotFound));
  dir_.Write("later/a.safetensors", "x");
  EXPECT_THAT(source.Read("a.safetensors"), IsOk());
}

TEST_F(AdapterSourceTest, RefusesTooLargeFilesWithTheLimit) {
  dir_.Write("root/a.safetensors", std::string(101, 'x'));
  const absl::Status status = Error("a.safetensors");
  EXPECT_THAT(status, HasReason(ErrorReason::kAdapterTooLarge));
  EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("limit_bytes", "100")));
}

TEST_F(AdapterSourceTest, ADirectoryIsNoFile) {
  std::filesystem::create_directory(dir_.File("root/a.safetensors"));
  EXPECT_THAT(
      Error("a.safetensors"),
      HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("not a regular file")));
}

TEST_F(AdapterSourceTest, AFifoDoesNotBlock) {
  // Nobody writes to it: a blocking open would never return.
  ASSERT_EQ(mkfifo(dir_.File("root/a.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(
      Error("a.safetensors"),
      HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("not a regular file")));
}

TEST_F(AdapterSourceTest, ASocketIsNoFile) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = dir_.File("root/a.safetensors");
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)),
            0);
  EXPECT_THAT(
      Error("a.safetensors"),
      HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("not a regular file")));
  close(fd);
}

TEST_F(AdapterSourceTest, ADeviceIsOutsideOrNoFile) {
  std::filesystem::create_symlink("/dev/zero", dir_.File("root/a.safetensors"));
  EXPECT_THAT(Error("a.safetensors"), HasReason(ErrorReason::kPathNotAllowed));
  const AdapterSource devices({.directory = "/dev"});
  EXPECT_THAT(devices.Read("zero"), HasReason(ErrorReason::kAdapterCorrupt));
}

TEST_F(AdapterSourceTest, AnUnreadableFileIsNotAllowed) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const std::string path = dir_.Write("root/a.safetensors", "x");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  EXPECT_THAT(Error("a.safetensors"), HasReason(ErrorReason::kPathNotAllowed,
                                                HasSubstr("permissions")));
}

}  // namespace
}  // namespace graft
