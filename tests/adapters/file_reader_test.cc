#include "server/adapters/file_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/open_beneath.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr int64_t kNoLimit = int64_t{1} << 40;

class FileReaderTest : public testing::Test {
 protected:
  FileDescriptor Open(const std::string& content) {
    path_ = dir_.Write("a.safetensors", content);
    return FileDescriptor(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  }

  static std::string Text(const AdapterFile& file) {
    return std::string(file.bytes.begin(), file.bytes.end());
  }

  TempDir dir_;
  std::string path_;
};

TEST_F(FileReaderTest, ReadsAllAndHashesIt) {
  const std::string content(5 << 20, 'q');  // several chunks
  const FileDescriptor file = Open(content);
  const auto read = ReadWholeFile(file.get(), "a", kNoLimit, ::read);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(Text(*read), content);
  EXPECT_EQ(read->sha256, Sha256Hex(content.data(), content.size()));
}

TEST_F(FileReaderTest, ReadsAnEmptyFile) {
  const FileDescriptor file = Open("");
  const auto read = ReadWholeFile(file.get(), "a", kNoLimit, ::read);
  ASSERT_THAT(read, IsOk());
  EXPECT_TRUE(read->bytes.empty());
}

TEST_F(FileReaderTest, GoesOnAfterShortReadsAndInterrupts) {
  const std::string content = "twelve bytes";
  const FileDescriptor file = Open(content);
  int calls = 0;
  const auto hesitant = [&calls](int fd, void* buffer, size_t size) -> ssize_t {
    if (++calls % 2 == 1) {
      errno = EINTR;
      return -1;
    }
    return ::read(fd, buffer, std::min<size_t>(size, 5));
  };
  const auto read = ReadWholeFile(file.get(), "a", kNoLimit, hesitant);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(Text(*read), content);
  EXPECT_EQ(read->sha256, Sha256Hex(content.data(), content.size()));
}

TEST_F(FileReaderTest, AReadErrorIsReported) {
  const FileDescriptor file = Open("content");
  const auto failing = [](int, void*, size_t) -> ssize_t {
    errno = EIO;
    return -1;
  };
  EXPECT_THAT(
      ReadWholeFile(file.get(), "a", kNoLimit, failing),
      HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("Input/output error")));
}

TEST_F(FileReaderTest, AFileThatShrinksIsRefused) {
  const FileDescriptor file = Open("content");
  const auto truncating = [this](int fd, void* buffer, size_t size) {
    std::filesystem::resize_file(path_, 3);
    return ::read(fd, buffer, size);
  };
  EXPECT_THAT(ReadWholeFile(file.get(), "a", kNoLimit, truncating),
              HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("changed")));
}

TEST_F(FileReaderTest, AFileThatGrowsIsRefused) {
  const FileDescriptor file = Open("content");
  const auto extending = [this](int fd, void* buffer, size_t size) {
    std::filesystem::resize_file(path_, 20);
    return ::read(fd, buffer, size);
  };
  EXPECT_THAT(ReadWholeFile(file.get(), "a", kNoLimit, extending),
              HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("changed")));
}

TEST_F(FileReaderTest, AFileThatIsOverwrittenIsRefused) {
  const FileDescriptor file = Open("content");
  const auto overwriting = [this](int fd, void* buffer, size_t size) {
    const ssize_t count = ::read(fd, buffer, size);
    // The same size; a time that no clock tick can hide.
    std::filesystem::last_write_time(
        path_,
        std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
    return count;
  };
  EXPECT_THAT(ReadWholeFile(file.get(), "a", kNoLimit, overwriting),
              HasReason(ErrorReason::kAdapterCorrupt, HasSubstr("changed")));
}

TEST_F(FileReaderTest, TheLimitIsInclusive) {
  const FileDescriptor file = Open("12345678");
  EXPECT_THAT(ReadWholeFile(file.get(), "a", 8, ::read), IsOk());
}

TEST_F(FileReaderTest, ATooLargeFileIsRefusedUnread) {
  const FileDescriptor file = Open("12345678");
  const auto never = [](int, void*, size_t) -> ssize_t {
    ADD_FAILURE() << "read";
    return 0;
  };
  const auto read = ReadWholeFile(file.get(), "a", 7, never);
  EXPECT_THAT(read, HasReason(ErrorReason::kAdapterTooLarge));
  EXPECT_THAT(GetErrorMetadata(read.status()),
              Contains(Pair("limit_bytes", "7")));
}

}  // namespace
}  // namespace graft
