#ifndef GRAFT_SERVER_DAEMON_OPTIONS_H_
#define GRAFT_SERVER_DAEMON_OPTIONS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/common/log.h"
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
  // Listen on an address that other machines can reach, without TLS.
  bool allow_insecure = false;
  // What requests that say nothing get, and clients are recommended.
  int default_steps = 25;
  double default_guidance_scale = 7.5;
  // How long accepted requests may go on after a signal to stop.
  absl::Duration exit_timeout = absl::Seconds(30);
  // Threads that read adapters, and that encode images.
  int loader_threads = 2;
  int encoder_threads = 2;
};

// Checks all of it: ranges, and that --listen is a loopback address unless
// --allow_insecure, and that --model and --adapter_dir are folders.
// INVALID_FIELD names the first flag that is wrong.
absl::Status ValidateDaemonOptions(const DaemonOptions& options);

// What flags spell: "auto", "float32", "bfloat16", "float16"; "backup";
// "debug", "info", "warning", "error". INVALID_FIELD lists them.
absl::StatusOr<ComputeDtype> ParseComputeDtype(absl::string_view text);
absl::StatusOr<RestoreMode> ParseRestoreMode(absl::string_view text);
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text);

}  // namespace graft

#endif  // GRAFT_SERVER_DAEMON_OPTIONS_H_
