#include "server/common/log.h"

#include <spdlog/async_logger.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/base_sink.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/common/error.h"

namespace graft {
namespace {

constexpr size_t kQueuedLines = 8192;
constexpr absl::Duration kExitTimeout = absl::Seconds(1);

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

// Writes to stderr on the logger's one thread, and counts what it wrote.
class CountingSink final
    : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  // Waits until `count` lines are written or `timeout` is over.
  bool AwaitWritten(uint64_t count, absl::Duration timeout) {
    const auto done = [this, count]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return written_ >= count;
    };
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&done), timeout);
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    std::fwrite(line.data(), 1, line.size(), stderr);
    absl::MutexLock lock(&mu_);
    ++written_;
  }
  void flush_() override {}  // stderr is not buffered

  absl::Mutex mu_;
  uint64_t written_ ABSL_GUARDED_BY(mu_) = 0;
};

// The way from Log() to stderr or to a test's sink.
class LogWriter {
 public:
  // One for the process. Never destroyed: threads may log until the end.
  static LogWriter& Get() {
    static LogWriter* const writer = [] {
      auto* const created = new LogWriter;
      std::atexit([] { FlushLog(kExitTimeout); });
      return created;
    }();
    return *writer;
  }

  void Write(LogLevel level, const std::string& line) {
    if (!logger_.should_log(ToSpdlog(level))) return;
    absl::MutexLock lock(&mu_);
    // Under the lock, so that no call outlives SetTestSink(nullptr).
    if (test_sink_) {
      test_sink_(line);
      return;
    }
    ReportDroppedLines();
    Post(ToSpdlog(level), line);
  }

  bool Flush(absl::Duration timeout) {
    uint64_t count = 0;
    {
      absl::MutexLock lock(&mu_);
      count = posted_ - pool_->overrun_counter();
    }
    return sink_->AwaitWritten(count, timeout);
  }

  void SetLevel(LogLevel level) { logger_.set_level(ToSpdlog(level)); }

  void SetTestSink(std::function<void(const std::string&)> sink) {
    absl::MutexLock lock(&mu_);
    test_sink_ = std::move(sink);
  }

 private:
  LogWriter()
      : sink_(std::make_shared<CountingSink>()),
        pool_(std::make_shared<spdlog::details::thread_pool>(kQueuedLines, 1)),
        logger_owner_(std::make_shared<spdlog::async_logger>(
            "graft", sink_, pool_,
            spdlog::async_overflow_policy::overrun_oldest)),
        logger_(*logger_owner_) {
    logger_.set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  }

  // The queue drops its oldest lines when stderr is blocked: a stopped log
  // reader cannot stop the daemon.
  void Post(spdlog::level::level_enum level, const std::string& line)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ++posted_;
    logger_.log(level, spdlog::string_view_t(line.data(), line.size()));
  }

  void ReportDroppedLines() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const uint64_t dropped = pool_->overrun_counter();
    if (dropped == reported_dropped_ || pool_->queue_size() > 0) return;
    Post(spdlog::level::warn,
         "log lines dropped total=" + std::to_string(dropped));
    reported_dropped_ = dropped;
  }

  const std::shared_ptr<CountingSink> sink_;
  const std::shared_ptr<spdlog::details::thread_pool> pool_;
  const std::shared_ptr<spdlog::async_logger> logger_owner_;
  spdlog::async_logger& logger_;

  absl::Mutex mu_;
  std::function<void(const std::string&)> test_sink_ ABSL_GUARDED_BY(mu_);
  uint64_t posted_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t reported_dropped_ ABSL_GUARDED_BY(mu_) = 0;
};

// `value` as it stands, or quoted where a reader could not tell where it ends.
// Quotes and backslashes are escaped first: EscapeUntrusted's own backslashes
// must stay single.
std::string Quote(absl::string_view value) {
  std::string escaped;
  for (const char c : value) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += c;
  }
  const bool plain = !value.empty() && escaped.size() == value.size() &&
                     value.find_first_of(" =") == absl::string_view::npos;
  escaped = EscapeUntrusted(escaped, 1024);
  return plain ? escaped : absl::StrCat("\"", escaped, "\"");
}

}  // namespace

void Log(LogLevel level, absl::string_view message,
         std::initializer_list<LogField> fields) {
  std::string line = EscapeUntrusted(message, 4096);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.key, "=", Quote(field.value));
  }
  LogWriter::Get().Write(level, line);
}

void SetLogLevel(LogLevel level) { LogWriter::Get().SetLevel(level); }

bool FlushLog(absl::Duration timeout) {
  return LogWriter::Get().Flush(timeout);
}

void SetLogSinkForTesting(std::function<void(const std::string&)> sink) {
  LogWriter::Get().SetTestSink(std::move(sink));
}

}  // namespace graft
