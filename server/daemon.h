#ifndef GRAFT_SERVER_DAEMON_H_
#define GRAFT_SERVER_DAEMON_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/adapters/adapter_source.h"
#include "server/adapters/adapter_store.h"
#include "server/common/clock.h"
#include "server/common/executor.h"
#include "server/daemon_metrics.h"
#include "server/daemon_options.h"
#include "server/engine/engine.h"
#include "server/engine/engine_options.h"
#include "server/rpc/authenticator.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/rpc_environment.h"
#include "server/rpc/serving_state.h"
#include "server/scheduling/request_scheduler.h"

namespace graft {

// How the daemon gets its engine: CreateTorchEngine, or a test's fake.
using EngineFactory = std::function<absl::StatusOr<std::unique_ptr<Engine>>(
    const EngineOptions&)>;

// Builds the whole server from the bottom up, and takes it down in reverse.
//
//   GRAFT_ASSIGN_OR_RETURN(auto daemon, Daemon::Start(options, factory));
//   GRAFT_RETURN_IF_ERROR(daemon->WaitUntilServing());
//   absl::Status end = daemon->WaitForStop();  // RequestStop, or a failure
//   daemon.reset();                            // drains, then ends
//
// Thread-safe but for the destructor.
class Daemon {
 public:
  // Opens the port, and begins to load the base model meanwhile; until that is
  // done, requests are answered STARTING and health says NOT_SERVING. REQUIRES:
  // ValidateDaemonOptions(options). INVALID_FIELD if the port cannot be had, or
  // the token file not be read.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(
      const DaemonOptions& options, EngineFactory factory);

  // Stops: health NOT_SERVING, new requests DRAINING, accepted ones finish
  // within exit_timeout or are cancelled. Waits for the base model if it still
  // loads.
  ~Daemon();

  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // "127.0.0.1:50051", with the real port.
  const std::string& address() const { return server_->address(); }

  // Waits until the base model is loaded and the daemon serves. The engine's
  // error if it cannot be, or INVALID_FIELD if options contradict the model;
  // DRAINING if RequestStop came first.
  absl::Status WaitUntilServing() ABSL_LOCKS_EXCLUDED(mu_);

  // The port of /metrics. REQUIRES: options.metrics_listen is not empty.
  int metrics_port() const { return metrics_.port(); }

  // Reads the token file again. After an error, which is logged, the former
  // tokens stay valid. (TLS files are watched all the time.)
  void Reload();

  // Ends WaitUntilServing and WaitForStop. As often as one likes.
  void RequestStop() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits for RequestStop, then OK; or until the daemon cannot go on:
  // BASE_WEIGHTS_DRIFT when the base's weights are damaged beyond repair,
  // IsDeviceLost() when it is.
  absl::Status WaitForStop() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Daemon(const DaemonOptions& options, EngineFactory factory);

  // The loader thread: from the base model to serving; then it looks after the
  // adapters' files.
  void Load() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status LoadBackend();

  // Looks at files of autoloaded adapters every adapter_poll until RequestStop.
  void PollAdapters() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits for RequestStop; false if it has not come after `timeout`.
  bool AwaitStop(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_);

  // Refuses new requests and says NOT_SERVING, for good. REQUIRES: the base
  // model is loaded, and the server not being destroyed.
  void BeginDrain();

  // The base's weights turned out to differ from what was loaded
  // (BASE_WEIGHTS_DRIFT), or to be intact again (OK): says so in health, and
  // has damage repaired. Owner thread of the scheduler.
  void OnDrift(const absl::Status& status);
  void OnRepaired(const absl::StatusOr<VerifyReport>& report)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Nothing works on the device any more: says NOT_SERVING, and ends
  // WaitForStop. Owner thread of the scheduler.
  void OnDeviceLost(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  const DaemonOptions options_;
  const EngineFactory factory_;
  const SteadyClock clock_;
  std::unique_ptr<Authenticator> authenticator_;  // nullptr: no tokens
  DaemonMetrics metrics_;
  RpcHooks hooks_ =
      metrics_.Count(DefaultRpcHooks());  // constant once the port is open
  ServingState state_{absl::Seconds(1)};

  absl::Mutex mu_;
  std::optional<absl::Status> loaded_ ABSL_GUARDED_BY(mu_);
  bool stop_requested_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);  // why the daemon cannot go on
  bool repairing_ = false;                     // owner thread of the scheduler

  // Bottom-up: each uses those above it, and is destroyed before them. The
  // middle ones are made by the loader thread, before state_ shows them.
  const AdapterSource source_;
  ThreadPoolExecutor encoder_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<AdapterStore> store_;
  std::unique_ptr<RequestScheduler> scheduler_;
  // The same, for the scheduler's own thread: it may call back while the
  // scheduler is being destroyed and scheduler_ is empty already.
  RequestScheduler* owned_scheduler_ = nullptr;
  std::unique_ptr<ThreadPoolExecutor> loader_;
  std::unique_ptr<ThreadPoolExecutor> committer_;
  std::unique_ptr<RequestLoader> requests_;
  Backend backend_;
  std::unique_ptr<GrpcServer> server_;
  std::thread load_thread_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_DAEMON_H_
