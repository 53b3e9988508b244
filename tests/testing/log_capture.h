#ifndef GRAFT_TESTS_TESTING_LOG_CAPTURE_H_
#define GRAFT_TESTS_TESTING_LOG_CAPTURE_H_

#include <algorithm>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/common/log.h"

namespace graft {

// Lines of the log, as long as it lives. Thread-safe.
class LogCapture {
 public:
  LogCapture() {
    SetLogSinkForTesting([this](const std::string& line) {
      absl::MutexLock lock(&mu_);
      lines_.push_back(line);
    });
  }
  ~LogCapture() { SetLogSinkForTesting(nullptr); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // Waits for a line with `text`; empty if none comes for half a minute.
  std::string Await(const std::string& text) {
    std::string found;
    const auto search = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      for (const std::string& line : lines_) {
        if (absl::StrContains(line, text)) found = line;
      }
      return !found.empty();
    };
    absl::MutexLock lock(&mu_);
    mu_.AwaitWithTimeout(absl::Condition(&search), absl::Seconds(30));
    return found;
  }

  // Lines with `text`.
  int Count(const std::string& text) const {
    absl::MutexLock lock(&mu_);
    return static_cast<int>(std::count_if(
        lines_.begin(), lines_.end(), [&](const std::string& line) {
          return absl::StrContains(line, text);
        }));
  }

 private:
  mutable absl::Mutex mu_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_LOG_CAPTURE_H_
