#ifndef GRAFT_SERVER_DAEMON_OPTIONS_H_
#define GRAFT_SERVER_DAEMON_OPTIONS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/common/log.h"
#include "server/engine/engine.h"
#include "server/engine/engine_options.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/request_validation.h"

namespace graft {

// Everything that can be set about a daemon. Built once, in main.
struct DaemonOptions {
  EngineOptions engine;
  TransportOptions transport;
  RequestLimits limits;

  // Where adapters are loaded from; empty: none can be.
  std::string adapter_dir;
  // Bearer tokens, see TokenTable; empty: callers need none.
  std::string token_file;
  // Where Prometheus finds /metrics, HOST:PORT, without TLS; empty: nowhere.
  std::string metrics_listen;
  // Listen on addresses that other machines can reach, without TLS.
  bool allow_insecure = false;
  // What requests that say nothing get, and clients are recommended.
  int default_steps = 25;
  double default_guidance_scale = 7.5;
  // A request that names NAME loads NAME.safetensors on first use.
  bool autoload = false;
  // How often the files of such adapters are looked at; 0: never.
  absl::Duration adapter_poll = absl::ZeroDuration();
  // Bytes that adapters may take; 0: no limit.
  int64_t max_adapter_host_bytes = 0;
  int64_t max_adapter_device_bytes = 0;
  // Of finished requests' images, kept for clients that send a request again.
  int64_t max_finished_bytes = int64_t{64} << 20;
  // Requests share the device's steps.
  bool batching = true;
  // Images of one such step.
  int max_batch_size = 4;
  // A request's progress is reported this often at most; 0: every step.
  absl::Duration progress_interval = absl::Milliseconds(200);
  // How long accepted requests may go on after a signal to stop.
  absl::Duration exit_timeout = absl::Seconds(30);
  // Threads that read adapters, and that encode images.
  int loader_threads = 2;
  int encoder_threads = 2;
};

// Checks all of it: ranges, that --model and --adapter_dir are folders, that
// the files of TLS fit together, that --listen is a loopback address unless
// there is TLS or --allow_insecure, and --metrics_listen unless there is
// --allow_insecure. INVALID_FIELD names the first flag that is wrong.
absl::Status ValidateDaemonOptions(const DaemonOptions& options);

// What only the loaded model tells: INVALID_FIELD (field "max_side") if images
// of its own size, which requests get that name none, would be refused.
absl::Status ValidateDefaultSize(const EngineInfo& model,
                                 const RequestLimits& limits);

// What flags spell: "auto", "float32", "bfloat16", "float16"; "undo_log",
// "backup"; "debug", "info", "warning", "error"; "on", "off". INVALID_FIELD
// lists them.
absl::StatusOr<ComputeDtype> ParseComputeDtype(absl::string_view text);
absl::StatusOr<RestoreMode> ParseRestoreMode(absl::string_view text);
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text);
absl::StatusOr<bool> ParseOnOff(absl::string_view flag, absl::string_view text);

}  // namespace graft

#endif  // GRAFT_SERVER_DAEMON_OPTIONS_H_
