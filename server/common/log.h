#ifndef GRAFT_SERVER_COMMON_LOG_H_
#define GRAFT_SERVER_COMMON_LOG_H_

#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

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

// Thread-safe. Never blocks on a full pipe for long: lines are dropped and
// counted instead.
void Log(LogLevel level, absl::string_view message,
         std::initializer_list<LogField> fields = {});

// Lines below `level` are not written. Default: kInfo. Thread-safe.
void SetLogLevel(LogLevel level);

// For tests: lines go to `sink` instead of stderr until it is set to nullptr.
void SetLogSinkForTesting(std::function<void(const std::string& line)> sink);

}  // namespace graft

#define GRAFT_LOG(level, ...) ::graft::Log(::graft::LogLevel::level, __VA_ARGS__)

#endif  // GRAFT_SERVER_COMMON_LOG_H_
