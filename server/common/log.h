#ifndef GRAFT_SERVER_COMMON_LOG_H_
#define GRAFT_SERVER_COMMON_LOG_H_

#include <functional>
#include <initializer_list>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// One line per event on stderr: time, level, message, then key=value fields.
//
//   GRAFT_LOG(kInfo, "adapter loaded",
//             {{"name", name}, {"rank", absl::StrCat(rank)}});
//
// No third-party header here: LibTorch's headers define LOG and CHECK and carry
// another fmt than the logging library's. Prompts and images are user data: log
// their lengths, never their contents. Values are escaped (CWE-117).
namespace graft {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  absl::string_view key;
  std::string value;
};

// Thread-safe. Lines are written by a thread of their own. While nobody reads a
// full pipe, callers go on: the oldest lines are dropped, and their number is
// logged when the pipe is free again.
void Log(LogLevel level, absl::string_view message,
         std::initializer_list<LogField> fields = {});

// Lines below `level` are not written. Default: kInfo. Thread-safe.
void SetLogLevel(LogLevel level);

// Waits until the lines logged so far are written, at most `timeout`; false if
// they were not. Runs by itself, with a second's timeout, when the process ends
// by exit() or by returning from main().
bool FlushLog(absl::Duration timeout);

// For tests: lines go to `sink` instead of stderr until it is set to nullptr.
// `sink` must not log.
void SetLogSinkForTesting(std::function<void(const std::string& line)> sink);

}  // namespace graft

#define GRAFT_LOG(level, ...) \
  ::graft::Log(::graft::LogLevel::level, __VA_ARGS__)

#endif  // GRAFT_SERVER_COMMON_LOG_H_
