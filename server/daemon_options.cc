#include "server/daemon_options.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// A flag's number and what it may be.
struct NumberRule {
  NumberRule(absl::string_view flag, double value, double min, double max)
      : flag(flag), value(value), min(min), max(max) {}

  absl::string_view flag;
  double value;
  double min;
  double max;
};

absl::Status Wrong(absl::string_view flag, absl::string_view why) {
  return Error(ErrorReason::kInvalidField, absl::StrCat("--", flag, ": ", why),
               {{"field", std::string(flag)}});
}

absl::Status CheckNumbers(const DaemonOptions& options) {
  const RequestLimits& limits = options.limits;
  constexpr double kGiB = double{1 << 30};
  const auto as_double = [](int64_t bytes) {
    return static_cast<double>(bytes);
  };
  const NumberRule rules[] = {
      NumberRule("threads", options.engine.threads, 0, 4096),
      NumberRule("max_connections", options.transport.max_connections, 0, 1e6),
      NumberRule("max_steps", limits.max_steps, 1, 1e6),
      NumberRule("min_side", limits.min_side, kSideMultiple, 1 << 15),
      NumberRule("max_side", limits.max_side, kSideMultiple, 1 << 15),
      NumberRule("max_count", limits.max_count, 1, 1024),
      NumberRule("max_adapters", limits.max_adapters, 0, 1024),
      NumberRule("max_adapter_weight", limits.max_adapter_weight, 0, 1000),
      NumberRule("max_guidance_scale", limits.max_guidance_scale, 0, 1e4),
      NumberRule("max_prompt_bytes", as_double(limits.max_prompt_bytes), 1,
                 kGiB),
      NumberRule("max_message_bytes", as_double(limits.max_message_bytes), 1024,
                 kGiB),
      NumberRule("max_adapter_file_bytes",
                 as_double(limits.max_adapter_file_bytes), 1, 1024 * kGiB),
      NumberRule("max_adapter_header_bytes",
                 as_double(limits.max_adapter_header_bytes), 2, kGiB),
      NumberRule("max_batch_size", options.max_batch_size, 1, 64),
      NumberRule("max_queued_requests", limits.max_queued_requests, 1, 1e6),
      NumberRule("max_adapter_host_bytes",
                 as_double(options.max_adapter_host_bytes), 0, 1e18),
      NumberRule("max_adapter_device_bytes",
                 as_double(options.max_adapter_device_bytes), 0, 1e18),
      NumberRule("max_finished_bytes", as_double(options.max_finished_bytes), 0,
                 1e18),
      NumberRule("adapter_poll", absl::ToDoubleSeconds(options.adapter_poll), 0,
                 1e6),
      NumberRule("progress_interval",
                 absl::ToDoubleSeconds(options.progress_interval), 0, 1e6),
      NumberRule("max_connection_age",
                 absl::ToDoubleSeconds(options.transport.max_connection_age), 1,
                 1e6),
      NumberRule(
          "max_connection_age_grace",
          absl::ToDoubleSeconds(options.transport.max_connection_age_grace), 0,
          1e6),
      NumberRule("max_queued_work", as_double(limits.max_queued_work), 1, 1e18),
      NumberRule("default_steps", options.default_steps, 1, limits.max_steps),
      NumberRule("default_guidance_scale", options.default_guidance_scale, 0,
                 limits.max_guidance_scale),
  };
  for (const NumberRule& rule : rules) {
    if (rule.value >= rule.min && rule.value <= rule.max) continue;
    return Wrong(rule.flag, absl::StrCat("must be between ", rule.min, " and ",
                                         rule.max, ", not ", rule.value));
  }
  if (limits.min_side > limits.max_side) {
    return Wrong("min_side", absl::StrCat("must not be above --max_side, which "
                                          "is ",
                                          limits.max_side));
  }
  const int largest_side = limits.max_side - limits.max_side % kSideMultiple;
  if (limits.min_side > largest_side) {
    return Wrong(
        "min_side",
        absl::StrCat("there is no multiple of ", kSideMultiple, " from it to ",
                     "--max_side, which is ", limits.max_side));
  }
  if (options.exit_timeout < absl::ZeroDuration()) {
    return Wrong("exit_timeout", "must not be negative");
  }
  return absl::OkStatus();
}

absl::Status CheckFolder(absl::string_view flag, const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return absl::OkStatus();
  return Wrong(flag, absl::StrCat("\"", EscapeUntrusted(path),
                                  "\" is no folder that can be read"));
}

absl::Status CheckDevice(const std::string& device) {
  absl::string_view number = device;
  int index = 0;
  if (device == "auto" || device == "cpu" ||
      (absl::ConsumePrefix(&number, "cuda:") &&
       absl::SimpleAtoi(number, &index) && index >= 0)) {
    return absl::OkStatus();
  }
  return Wrong("device", absl::StrCat("must be auto, cpu or cuda:N, not \"",
                                      EscapeUntrusted(device), "\""));
}

// Whatever TLS there is: metrics are served without.
absl::Status CheckMetricsListen(const DaemonOptions& options) {
  const std::string& address = options.metrics_listen;
  if (address.empty()) return absl::OkStatus();
  // To its HTTP server a comma begins a second address.
  if (absl::StrContains(address, ',')) {
    return Wrong("metrics_listen",
                 absl::StrCat("\"", EscapeUntrusted(address),
                              "\" is more than one HOST:PORT"));
  }
  const auto loopback = IsLoopbackAddress(address);
  if (!loopback.ok()) {
    return Wrong("metrics_listen", loopback.status().message());
  }
  if (*loopback || options.allow_insecure) return absl::OkStatus();
  return Wrong("metrics_listen",
               absl::StrCat("\"", EscapeUntrusted(address),
                            "\" can be reached from other machines, and "
                            "everybody may read metrics there, unencrypted; "
                            "give --allow_insecure if that is meant"));
}

absl::Status CheckListen(const DaemonOptions& options) {
  const auto loopback = IsLoopbackAddress(options.transport.listen);
  if (!loopback.ok()) return Wrong("listen", loopback.status().message());
  if (*loopback || options.allow_insecure || options.transport.tls.enabled()) {
    return absl::OkStatus();
  }
  return Wrong(
      "listen",
      absl::StrCat("\"", options.transport.listen,
                   "\" can be reached from other machines, and there "
                   "is no encryption; give --tls_cert and --tls_key, or "
                   "--allow_insecure if that is meant"));
}

// The value that `text` names in `choices`.
template <typename Value>
absl::StatusOr<Value> ParseChoice(
    absl::string_view flag, absl::string_view text,
    const std::vector<std::pair<std::string, Value>>& choices) {
  for (const auto& [name, value] : choices) {
    if (text == name) return value;
  }
  return Wrong(flag,
               absl::StrCat("must be one of ",
                            absl::StrJoin(choices, ", ",
                                          [](std::string* out, const auto& c) {
                                            out->append(c.first);
                                          }),
                            ", not \"", EscapeUntrusted(text), "\""));
}

}  // namespace

absl::Status ValidateDaemonOptions(const DaemonOptions& options) {
  GRAFT_RETURN_IF_ERROR(CheckFolder("model", options.engine.model_dir));
  if (!options.adapter_dir.empty()) {
    GRAFT_RETURN_IF_ERROR(CheckFolder("adapter_dir", options.adapter_dir));
  }
  GRAFT_RETURN_IF_ERROR(CheckDevice(options.engine.device));
  GRAFT_RETURN_IF_ERROR(CheckNumbers(options));
  GRAFT_RETURN_IF_ERROR(CheckTlsFiles(options.transport.tls));
  GRAFT_RETURN_IF_ERROR(CheckMetricsListen(options));
  return CheckListen(options);
}

absl::Status ValidateDefaultSize(const EngineInfo& model,
                                 const RequestLimits& limits) {
  const int side = std::max(model.default_width, model.default_height);
  if (side <= limits.max_side) return absl::OkStatus();
  return Wrong("max_side",
               absl::StrCat("must not be below the model's own size, which is ",
                            model.default_width, "x", model.default_height,
                            ", not ", limits.max_side));
}

absl::StatusOr<ComputeDtype> ParseComputeDtype(absl::string_view text) {
  return ParseChoice<ComputeDtype>("dtype", text,
                                   {{"auto", ComputeDtype::kAuto},
                                    {"float32", ComputeDtype::kFloat32},
                                    {"bfloat16", ComputeDtype::kBFloat16},
                                    {"float16", ComputeDtype::kFloat16}});
}

absl::StatusOr<RestoreMode> ParseRestoreMode(absl::string_view text) {
  return ParseChoice<RestoreMode>(
      "restore", text,
      {{"undo_log", RestoreMode::kUndoLog}, {"backup", RestoreMode::kBackup}});
}

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text) {
  return ParseChoice<LogLevel>("log_level", text,
                               {{"debug", LogLevel::kDebug},
                                {"info", LogLevel::kInfo},
                                {"warning", LogLevel::kWarning},
                                {"error", LogLevel::kError}});
}

absl::StatusOr<bool> ParseOnOff(absl::string_view flag,
                                absl::string_view text) {
  return ParseChoice<bool>(flag, text, {{"on", true}, {"off", false}});
}

}  // namespace graft
