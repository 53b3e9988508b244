// graftd: the daemon. Flags become DaemonOptions; the rest is daemon.h's.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/common/temporary_files.h"
#include "server/common/version.h"
#include "server/daemon.h"
#include "server/daemon_options.h"
#include "server/engine/device_lost.h"
#include "server/engine/torch_engine.h"
#include "server/process.h"
#include "server/weight_export.h"

ABSL_FLAG(std::string, model, "",
          "The base model: a folder in diffusers format (model_index.json). "
          "Empty: the demo model that came with graftd");
ABSL_FLAG(std::string, adapter_dir, "",
          "The folder that adapters are loaded from, by paths relative to it. "
          "Empty: none can be loaded (with the demo model: its adapters)");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051",
          "HOST:PORT to serve on; port 0 picks a free one");
ABSL_FLAG(bool, allow_insecure, false,
          "Serve on addresses that other machines can reach (--listen, "
          "--metrics_listen), though there is no encryption");
ABSL_FLAG(std::string, tls_cert, "",
          "PEM file with the certificate chain to serve TLS with; it may be "
          "replaced while graftd runs, as the other two may. Empty: no TLS");
ABSL_FLAG(std::string, tls_key, "",
          "PEM file with the private key of --tls_cert");
ABSL_FLAG(
    std::string, tls_client_ca, "",
    "PEM file with certificate authorities: clients need a certificate of "
    "one of them (mutual TLS); without --token_file its name is the tenant, "
    "who may call everything. Empty: they need none");
ABSL_FLAG(
    std::string, token_file, "",
    "File with the bearer tokens that clients may call with, a line each: "
    "tenant:role[,role]:sha256-of-token with the roles generate, "
    "adapters, admin and read; read again on SIGHUP. Empty: clients need "
    "no token");
ABSL_FLAG(std::string, metrics_listen, "",
          "HOST:PORT to serve Prometheus metrics on, path /metrics, without "
          "encryption or tokens; a HOST that other machines can reach needs "
          "--allow_insecure. Empty: nowhere");
ABSL_FLAG(std::string, device, "auto",
          "Where to compute: auto (a GPU if there is one), cpu or cuda:N");
ABSL_FLAG(std::string, dtype, "auto",
          "Of the resident weights: auto (float16 on a GPU, float32 on the "
          "CPU), float32, bfloat16 or float16");
ABSL_FLAG(std::string, restore, "undo_log",
          "How a switch gets back to the base weights, both with the same "
          "bits: undo_log (subtract what was merged and set right what "
          "rounding lost, from a small log) or backup (a pristine copy of "
          "every adapted weight)");
ABSL_FLAG(
    int, threads, 0,
    "CPU threads to compute with; 0: one for each processor that may be used, "
    "by affinity and CPU quota (a container's)");
ABSL_FLAG(absl::Duration, progress_interval, absl::Milliseconds(200),
          "How often a request's progress is reported to its client at most; "
          "0: after every step");
ABSL_FLAG(absl::Duration, exit_timeout, absl::Seconds(30),
          "How long accepted requests may go on after SIGTERM or SIGINT; a "
          "second signal ends the program at once");
ABSL_FLAG(std::string, export, "",
          "Do not serve: merge these adapters and write the weights to "
          "--export_to. A list \"NAME[=WEIGHT[:TEXT_ENCODER_WEIGHT]],...\" of "
          "NAME.safetensors in --adapter_dir; empty: the base alone");
ABSL_FLAG(std::string, export_to, "",
          "FILE.safetensors that --export writes to");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning or error");
ABSL_FLAG(int, default_steps, 25,
          "Denoising steps that clients are recommended");
ABSL_FLAG(
    double, default_guidance_scale, 7.5,
    "Guidance scale of requests that do not say (with the demo model: 2)");
ABSL_FLAG(int, max_queued_requests, 256, "Requests that may wait");
ABSL_FLAG(
    int64_t, max_queued_work, int64_t{256} * 1024 * 1024 * 50,
    "Work that may wait, in steps x images x pixels; a single request may "
    "be larger");
ABSL_FLAG(int64_t, max_finished_bytes, int64_t{64} << 20,
          "Bytes of finished requests' images that are kept, for clients that "
          "send a request with its request_id again; 0: none");
ABSL_FLAG(bool, autoload, false,
          "A request that names NAME, which is not loaded, loads "
          "NAME.safetensors of --adapter_dir; such adapters give way to others "
          "when memory is short");
ABSL_FLAG(absl::Duration, adapter_poll, absl::ZeroDuration(),
          "How often to look whether files of adapters that --autoload has "
          "loaded have changed or gone; 0: never");
ABSL_FLAG(int64_t, max_adapter_host_bytes, 0,
          "Bytes of host memory that adapters may take; 0: no limit");
ABSL_FLAG(int64_t, max_adapter_device_bytes, 0,
          "Bytes on the device that adapters may take, those not in use giving "
          "way; 0: no limit");
ABSL_FLAG(std::string, batching, "on",
          "on: requests share the device's steps; off: each image has the same "
          "bits whatever else is computed at the time");
ABSL_FLAG(int, max_batch_size, 4,
          "Images that make a step together at most, with --batching=on");
ABSL_FLAG(int, max_connections, 0,
          "Connections that may be open; 0: as many as there are descriptors");
ABSL_FLAG(absl::Duration, max_connection_age, absl::Minutes(30),
          "How long a connection takes new calls, so that load balancers can "
          "spread clients anew");
ABSL_FLAG(absl::Duration, max_connection_age_grace, absl::Minutes(10),
          "How long calls of such a connection may go on then; a call never "
          "lasts longer than both together, whatever its deadline");
ABSL_FLAG(int, max_steps, 1000, "Denoising steps of an image");
ABSL_FLAG(int, min_side, 64, "Pixels of an image's shorter side");
ABSL_FLAG(int, max_side, 2048, "Pixels of an image's longer side");
ABSL_FLAG(int, max_count, 16, "Images of a request");
ABSL_FLAG(int, max_adapters, 16, "Adapters of a request");
ABSL_FLAG(double, max_adapter_weight, 8.0, "Absolute weight of an adapter");
ABSL_FLAG(double, max_guidance_scale, 100.0, "Guidance scale");
ABSL_FLAG(int64_t, max_prompt_bytes, 16 << 10,
          "Bytes of a prompt, and of a negative prompt");
ABSL_FLAG(int64_t, max_message_bytes, 4 << 20, "Bytes of a request message");
ABSL_FLAG(int64_t, max_adapter_file_bytes, int64_t{4} << 30,
          "Bytes of an adapter's file");
ABSL_FLAG(int64_t, max_adapter_header_bytes, 8 << 20,
          "Bytes of an adapter file's header");

namespace graft {
namespace {

constexpr char kUsage[] =
    "graftd keeps one Stable Diffusion model resident and serves images over "
    "gRPC,\nswitching LoRA adapters and their relatives in place for each "
    "request.\n\n"
    "  graftd                                     the demo model\n"
    "  graftd --model DIR --adapter_dir DIR       your own\n"
    "  graftd --model DIR --adapter_dir DIR --export ink=0.8 --export_to FILE\n"
    "                                             the merged weights\n\n"
    "Prints one line, \"listening on HOST:PORT\", when it serves; logs go to "
    "stderr.\nThe client is `graft`. Stops on SIGTERM and SIGINT; reads "
    "--token_file\nagain on SIGHUP. Ends with "
    "exit code 70 when\nthe resident weights are damaged beyond repair, or the "
    "device is lost: start\nit anew.";

// sysexits.h's EX_SOFTWARE: a supervisor starts the program again.
constexpr int kExitDamaged = 70;

// How long the program may take to end when it cannot go on.
constexpr std::chrono::seconds kTimeToEnd{4};

// As a shell tells of a program that a signal ended: plus its number.
constexpr int kExitSignal = 128;

// Whether a flag is one of this file's, and not a library's.
bool IsOurs(const absl::CommandLineFlag& flag) {
  return absl::EndsWith(flag.Filename(), "server/main.cc");
}

// Abseil's own --help shows the flags of files that are called after the
// program and exits with 1.
void PrintHelp() {
  std::cout << kUsage << "\n\nFlags:\n";
  std::vector<const absl::CommandLineFlag*> flags;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (IsOurs(*flag)) flags.push_back(flag);
  }
  std::sort(flags.begin(), flags.end(),
            [](const auto* a, const auto* b) { return a->Name() < b->Name(); });
  for (const absl::CommandLineFlag* flag : flags) {
    const std::string value = flag->DefaultValue();
    std::cout << "  --" << flag->Name() << "\n      " << flag->Help()
              << ".\n      Default: " << (value.empty() ? "empty" : value)
              << "\n";
  }
  std::cout << "  --version\n      Print the version.\n";
}

// Answers --help and --version; true if there was one.
bool HandledInformation(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help" || argument == "-help" || argument == "-h") {
      PrintHelp();
      return true;
    }
    if (argument == "--version") {
      std::cout << "graftd " << Version() << "\n";
      return true;
    }
  }
  return false;
}

// The folder with the demo's `model` and `adapters`: installed beside the
// program, or in the source tree that it was built from.
absl::StatusOr<std::string> FindDemo() {
  const std::string candidates[] = {
      absl::StrCat(ExecutableDirectory(), "/../share/graft/demo"),
      GRAFT_DEMO_SOURCE_DIR};
  for (const std::string& folder : candidates) {
    std::error_code error;
    const auto path = std::filesystem::weakly_canonical(folder, error);
    if (!error && std::filesystem::is_directory(path / "model", error)) {
      return path.string();
    }
  }
  return Error(ErrorReason::kInvalidField,
               "--model: no base model is given, and the demo model is not "
               "installed; give --model DIR",
               {{"field", "model"}});
}

// What the demo model was made for; deploy/demo/README.md says why.
constexpr double kDemoGuidanceScale = 2.0;

absl::Status UseDemo(DaemonOptions& options) {
  GRAFT_ASSIGN_OR_RETURN(const std::string demo, FindDemo());
  options.engine.model_dir = demo + "/model";
  if (options.adapter_dir.empty() &&
      std::filesystem::is_directory(demo + "/adapters")) {
    options.adapter_dir = demo + "/adapters";
  }
  const absl::CommandLineFlag& guidance =
      absl::GetFlagReflectionHandle(FLAGS_default_guidance_scale);
  if (guidance.CurrentValue() == guidance.DefaultValue()) {
    options.default_guidance_scale = kDemoGuidanceScale;
  }
  GRAFT_LOG(kWarning, "no --model is given: serving the demo model",
            {{"model", options.engine.model_dir},
             {"adapter_dir", options.adapter_dir}});
  return absl::OkStatus();
}

RequestLimits LimitsFromFlags() {
  return {
      .max_steps = absl::GetFlag(FLAGS_max_steps),
      .min_side = absl::GetFlag(FLAGS_min_side),
      .max_side = absl::GetFlag(FLAGS_max_side),
      .max_count = absl::GetFlag(FLAGS_max_count),
      .max_adapters = absl::GetFlag(FLAGS_max_adapters),
      .max_adapter_weight = absl::GetFlag(FLAGS_max_adapter_weight),
      .max_guidance_scale = absl::GetFlag(FLAGS_max_guidance_scale),
      .max_prompt_bytes = absl::GetFlag(FLAGS_max_prompt_bytes),
      .max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes),
      .max_adapter_file_bytes = absl::GetFlag(FLAGS_max_adapter_file_bytes),
      .max_adapter_header_bytes = absl::GetFlag(FLAGS_max_adapter_header_bytes),
      .max_queued_requests = absl::GetFlag(FLAGS_max_queued_requests),
      .max_queued_work = absl::GetFlag(FLAGS_max_queued_work)};
}

absl::StatusOr<DaemonOptions> OptionsFromFlags() {
  DaemonOptions options;
  options.engine.model_dir = absl::GetFlag(FLAGS_model);
  options.engine.device = absl::GetFlag(FLAGS_device);
  options.engine.threads = absl::GetFlag(FLAGS_threads);
  GRAFT_ASSIGN_OR_RETURN(options.engine.dtype,
                         ParseComputeDtype(absl::GetFlag(FLAGS_dtype)));
  GRAFT_ASSIGN_OR_RETURN(options.engine.restore,
                         ParseRestoreMode(absl::GetFlag(FLAGS_restore)));
  GRAFT_ASSIGN_OR_RETURN(options.batching,
                         ParseOnOff("batching", absl::GetFlag(FLAGS_batching)));
  options.max_batch_size = absl::GetFlag(FLAGS_max_batch_size);
  options.limits = LimitsFromFlags();
  options.transport.listen = absl::GetFlag(FLAGS_listen);
  options.transport.max_connections = absl::GetFlag(FLAGS_max_connections);
  options.transport.max_connection_age =
      absl::GetFlag(FLAGS_max_connection_age);
  options.transport.max_connection_age_grace =
      absl::GetFlag(FLAGS_max_connection_age_grace);
  options.transport.max_message_bytes = options.limits.max_message_bytes;
  options.transport.tls = {.certificate = absl::GetFlag(FLAGS_tls_cert),
                           .key = absl::GetFlag(FLAGS_tls_key),
                           .client_ca = absl::GetFlag(FLAGS_tls_client_ca)};
  options.max_finished_bytes = absl::GetFlag(FLAGS_max_finished_bytes);
  options.autoload = absl::GetFlag(FLAGS_autoload);
  options.adapter_poll = absl::GetFlag(FLAGS_adapter_poll);
  options.max_adapter_host_bytes = absl::GetFlag(FLAGS_max_adapter_host_bytes);
  options.max_adapter_device_bytes =
      absl::GetFlag(FLAGS_max_adapter_device_bytes);
  options.token_file = absl::GetFlag(FLAGS_token_file);
  options.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  options.adapter_dir = absl::GetFlag(FLAGS_adapter_dir);
  options.allow_insecure = absl::GetFlag(FLAGS_allow_insecure);
  options.default_steps = absl::GetFlag(FLAGS_default_steps);
  options.default_guidance_scale = absl::GetFlag(FLAGS_default_guidance_scale);
  options.progress_interval = absl::GetFlag(FLAGS_progress_interval);
  options.exit_timeout = absl::GetFlag(FLAGS_exit_timeout);
  if (options.engine.model_dir.empty()) {
    GRAFT_RETURN_IF_ERROR(UseDemo(options));
  }
  GRAFT_RETURN_IF_ERROR(ValidateDaemonOptions(options));
  return options;
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return EXIT_SUCCESS;
  const bool damaged =
      GetErrorReason(status) == ErrorReason::kBaseWeightsDrift ||
      IsDeviceLost(status);
  return damaged ? kExitDamaged : EXIT_FAILURE;
}

// Ends the process with `code` in a few seconds, whatever hangs or throws while
// it tries to end in order: on a device that is lost, anything may.
void EndSoon(int code) {
  static int exit_code;
  exit_code = code;
  std::set_terminate([] { std::_Exit(exit_code); });
  std::thread([] {
    std::this_thread::sleep_for(kTimeToEnd);
    std::_Exit(exit_code);
  }).detach();
}

// Serves until a signal comes.
absl::Status Serve(const DaemonOptions& options) {
  GRAFT_ASSIGN_OR_RETURN(std::unique_ptr<Daemon> daemon,
                         Daemon::Start(options, CreateTorchEngine));
  std::atomic<bool> ending{false};
  const SignalThread signals([raw = daemon.get(), &ending](int signal) {
    if (signal == SIGHUP) {
      if (!ending) raw->Reload();
      return;
    }
    if (ending.exchange(true)) std::_Exit(EXIT_FAILURE);
    GRAFT_LOG(kInfo, "stopping; a second signal ends the program at once");
    raw->RequestStop();
  });
  absl::Status failure;
  const absl::Status serving = daemon->WaitUntilServing();
  if (serving.ok()) {
    std::cout << "listening on " << daemon->address() << std::endl;
    failure = daemon->WaitForStop();
    if (!failure.ok()) EndSoon(ExitCode(failure));
  } else if (GetErrorReason(serving) != ErrorReason::kDraining) {
    failure = serving;
  }
  ending = true;
  daemon.reset();  // drains; a signal ends that
  return failure;
}

// Writes merged weights instead of serving.
absl::Status Export(const DaemonOptions& options) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<ExportedAdapter> adapters,
                         ParseExportList(absl::GetFlag(FLAGS_export)));
  const std::string file = absl::GetFlag(FLAGS_export_to);
  GRAFT_RETURN_IF_ERROR(CheckExportFile(file));
  // There is nothing to finish or to save but the half file.
  const SignalThread signals([](int signal) {
    if (signal == SIGHUP) return;
    RemoveTemporaryFiles();
    std::_Exit(kExitSignal + signal);
  });
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                         CreateTorchEngine(options.engine));
  GRAFT_ASSIGN_OR_RETURN(const std::string report,
                         ExportMergedWeights(adapters, file, options, *engine));
  std::cout << report << std::endl;
  return absl::OkStatus();
}

bool ExportIsAskedFor() {
  return !absl::GetFlag(FLAGS_export).empty() ||
         !absl::GetFlag(FLAGS_export_to).empty();
}

absl::Status Run(const std::vector<char*>& positional) {
  if (positional.size() > 1) {
    return Error(
        ErrorReason::kInvalidField,
        absl::StrCat("unexpected argument \"", EscapeUntrusted(positional[1]),
                     "\"; graftd takes flags only"));
  }
  GRAFT_ASSIGN_OR_RETURN(const LogLevel level,
                         ParseLogLevel(absl::GetFlag(FLAGS_log_level)));
  SetLogLevel(level);
  GRAFT_ASSIGN_OR_RETURN(const DaemonOptions options, OptionsFromFlags());
  if (ExportIsAskedFor()) return Export(options);
  GRAFT_LOG(kInfo, "graftd starts",
            {{"version", std::string(Version())},
             {"model", options.engine.model_dir},
             {"adapter_dir", options.adapter_dir},
             {"descriptors", absl::StrCat(RaiseDescriptorLimit())}});
  return Serve(options);
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  if (graft::HandledInformation(argc, argv)) return EXIT_SUCCESS;
  graft::ReexecWithPassiveOpenMp(argv);
  graft::StopDeadlockDetection();
  graft::SignalThread::BlockSignals();
  absl::SetProgramUsageMessage(graft::kUsage);
  const absl::Status status = graft::Run(absl::ParseCommandLine(argc, argv));
  if (status.ok()) return EXIT_SUCCESS;
  graft::FlushLog(absl::Seconds(1));  // the cause comes last
  std::cerr << "graftd: " << status.message() << std::endl;
  return graft::ExitCode(status);
}
