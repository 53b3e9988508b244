#include "server/common/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LogTest : public testing::Test {
 protected:
  LogTest() {
    SetLogSinkForTesting(
        [this](const std::string& line) { lines_.push_back(line); });
  }
  ~LogTest() override {
    SetLogSinkForTesting(nullptr);
    SetLogLevel(LogLevel::kInfo);
  }

  std::vector<std::string> lines_;
};

TEST_F(LogTest, WritesMessageAndFields) {
  GRAFT_LOG(kInfo, "adapter loaded", {{"name", "cat"}, {"rank", "8"}});
  EXPECT_THAT(lines_, ElementsAre("adapter loaded name=cat rank=8"));
}

TEST_F(LogTest, WritesMessageAlone) {
  GRAFT_LOG(kError, "stopped");
  EXPECT_THAT(lines_, ElementsAre("stopped"));
}

TEST_F(LogTest, QuotesValuesThatAreNotOneWord) {
  GRAFT_LOG(kInfo, "m",
            {{"a", "two words"}, {"b", ""}, {"c", "k=v"}, {"d", "plain"}});
  EXPECT_THAT(lines_,
              ElementsAre("m a=\"two words\" b=\"\" c=\"k=v\" d=plain"));
}

TEST_F(LogTest, ALineStaysOneLine) {
  GRAFT_LOG(kInfo, "a\nb\x1b[0m", {{"v", "x\r\ny\xff"}});
  EXPECT_THAT(lines_, ElementsAre("a\\x0ab\\x1b[0m v=x\\x0d\\x0ay\\xff"));
}

TEST_F(LogTest, AValueCannotEndItsOwnQuotes) {
  GRAFT_LOG(kInfo, "m", {{"v", "x\" admin=1"}, {"w", "x\\\" admin=1"}});
  EXPECT_THAT(lines_, ElementsAre("m v=\"x\\\" admin=1\" "
                                  "w=\"x\\\\\\\" admin=1\""));
}

TEST_F(LogTest, LongValuesAreCut) {
  GRAFT_LOG(kInfo, "m", {{"v", std::string(100000, 'x')}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_LT(lines_[0].size(), 1100u);
}

TEST_F(LogTest, LinesBelowTheLevelAreNotWritten) {
  GRAFT_LOG(kDebug, "hidden");
  EXPECT_THAT(lines_, IsEmpty());
  SetLogLevel(LogLevel::kDebug);
  GRAFT_LOG(kDebug, "shown");
  EXPECT_THAT(lines_, ElementsAre("shown"));
  SetLogLevel(LogLevel::kError);
  GRAFT_LOG(kWarning, "hidden");
  EXPECT_THAT(lines_, ElementsAre("shown"));
}

// Stderr as a pipe, for the tests of what really comes out.
class StderrPipe {
 public:
  explicit StderrPipe(int flags) : saved_(dup(STDERR_FILENO)) {
    if (pipe2(ends_, flags) != 0) std::abort();
    dup2(ends_[1], STDERR_FILENO);
    close(ends_[1]);
  }
  ~StderrPipe() {
    Restore();
    close(ends_[0]);
  }

  void Restore() { dup2(saved_, STDERR_FILENO); }

  // What can be read before the end of the pipe.
  std::string ReadAll() {
    std::string text;
    char buffer[4096];
    for (ssize_t size; (size = read(ends_[0], buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, size);
    }
    return text;
  }

  // Reads up to and including the first line that contains `word`.
  std::string ReadUntil(const std::string& word) {
    std::string text;
    char c = 0;
    while (read(ends_[0], &c, 1) == 1) {
      text += c;
      if (c == '\n' && text.find(word) != std::string::npos) break;
    }
    return text;
  }

 private:
  const int saved_;
  int ends_[2];
};

TEST(LogStderrTest, FlushWaitsForTheLines) {
  StderrPipe pipe(O_CLOEXEC);
  GRAFT_LOG(kInfo, "first");
  GRAFT_LOG(kWarning, "second", {{"n", "2"}});
  EXPECT_TRUE(FlushLog(absl::InfiniteDuration()));
  pipe.Restore();
  EXPECT_THAT(pipe.ReadAll(),
              testing::MatchesRegex(
                  "....-..-..T..:..:......[+-]..:.. info first\n"
                  "....-..-..T..:..:......[+-]..:.. warning second n=2\n"));
}

TEST(LogStderrTest, ABlockedReaderBlocksNobodyAndLossIsReported) {
  StderrPipe pipe(O_CLOEXEC);
  for (int i = 0; i < 30000; ++i) GRAFT_LOG(kInfo, std::string(100, 'x'));
  EXPECT_FALSE(FlushLog(absl::ZeroDuration()));
  GRAFT_LOG(kInfo, "last of the flood");
  pipe.ReadUntil("last of the flood");
  ASSERT_TRUE(FlushLog(absl::InfiniteDuration()));
  GRAFT_LOG(kInfo, "afterwards");
  EXPECT_THAT(pipe.ReadUntil("afterwards"), HasSubstr("log lines dropped"));
}

// One read of at most `size` bytes from `descriptor`.
std::string ReadOnce(int descriptor, size_t size) {
  std::string text(size, '\0');
  const ssize_t count = read(descriptor, text.data(), size);
  text.resize(count > 0 ? count : 0);
  return text;
}

// Ends the process by exit(3) if the logger's exit handler writes the lines
// that are still queued, by exit(4) if it does not. Stderr is a full pipe until
// exit() begins, so that they are; handlers run last to first.
[[noreturn]] void ExitWithQueuedLines() {
  static int ends[2];
  static size_t filled = 0;
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) std::abort();
  while (write(ends[1], "x", 1) == 1) ++filled;
  fcntl(ends[1], F_SETFL, 0);  // writes block again
  dup2(ends[1], STDERR_FILENO);
  std::atexit([] {
    const std::string text = ReadOnce(ends[0], filled);
    _exit(text.find("last words") != std::string::npos ? 3 : 4);
  });
  for (int i = 0; i < 100; ++i) GRAFT_LOG(kInfo, std::string(200, 'y'));
  GRAFT_LOG(kInfo, "last words");
  std::atexit([] { ReadOnce(ends[0], filled); });
  std::exit(5);
}

TEST(LogDeathTest, LinesBeforeTheEndAreWritten) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(ExitWithQueuedLines(), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace graft
