#include "server/common/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>

#include "absl/strings/string_view.h"
#include "server/common/error.h"

namespace graft {
namespace {

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

// The asynchronous logger drops the oldest lines when stderr is blocked, so a
// stopped log reader cannot stop the daemon. Leaked on purpose: threads may log
// until the process ends.
spdlog::logger& Logger() {
  static spdlog::logger* const logger = [] {
    static auto* const pool = new std::shared_ptr<spdlog::details::thread_pool>(
        std::make_shared<spdlog::details::thread_pool>(8192, 1));
    auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    auto* const shared = new std::shared_ptr<spdlog::async_logger>(
        std::make_shared<spdlog::async_logger>(
            "graft", std::move(sink), *pool,
            spdlog::async_overflow_policy::overrun_oldest));
    (*shared)->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    (*shared)->flush_on(spdlog::level::info);
    return shared->get();
  }();
  return *logger;
}

std::mutex& SinkMutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

std::function<void(const std::string&)>& TestSink() {
  static auto* const sink = new std::function<void(const std::string&)>;
  return *sink;
}

std::string Quote(absl::string_view value) {
  const std::string escaped = EscapeUntrusted(value, 1024);
  if (!escaped.empty() &&
      escaped.find_first_of(" \"=") == std::string::npos) {
    return escaped;
  }
  std::string quoted = "\"";
  for (const char c : escaped) {
    if (c == '"') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

void Log(LogLevel level, absl::string_view message,
         std::initializer_list<LogField> fields) {
  std::string line = EscapeUntrusted(message, 4096);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.key, "=", Quote(field.value));
  }
  {
    const std::lock_guard<std::mutex> lock(SinkMutex());
    if (TestSink()) {
      TestSink()(line);
      return;
    }
  }
  Logger().log(ToSpdlog(level), "{}", line);
}

void SetLogLevel(LogLevel level) { Logger().set_level(ToSpdlog(level)); }

void SetLogSinkForTesting(std::function<void(const std::string&)> sink) {
  const std::lock_guard<std::mutex> lock(SinkMutex());
  TestSink() = std::move(sink);
}

}  // namespace graft
