#ifndef GRAFT_TESTS_INTEGRATION_IN_PROCESS_DAEMON_H_
#define GRAFT_TESTS_INTEGRATION_IN_PROCESS_DAEMON_H_

#include <grpcpp/channel.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/daemon.h"
#include "server/daemon_options.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/temp_dir.h"

namespace graft {

// The whole daemon over real gRPC on a free port, with a FakeEngine and an
// adapter directory of its own.
class InProcessDaemon {
 public:
  // What happens when the daemon asks for its engine, before it gets it.
  using OnLoad = std::function<absl::Status()>;

  // Starts the daemon; `change` may set options. Waits until it serves, unless
  // `on_load` is given.
  explicit InProcessDaemon(
      const std::function<void(DaemonOptions&)>& change = nullptr,
      OnLoad on_load = nullptr);

  Daemon& daemon() { return *daemon_; }
  FakeEngine& engine() { return *engine_; }
  const TempDir& adapter_dir() const { return adapter_dir_; }
  const std::string& address() const { return address_; }

  // A connection of its own.
  std::shared_ptr<grpc::Channel> NewChannel() const;

  // Stops the daemon and waits until it is gone, engine included.
  void Stop() { daemon_.reset(); }

 private:
  TempDir adapter_dir_;
  TempDir model_dir_;
  std::unique_ptr<FakeEngine> new_engine_;  // until the daemon takes it
  FakeEngine* const engine_;
  std::unique_ptr<Daemon> daemon_;
  std::string address_;
};

// The reason in a call's google.rpc.ErrorInfo, empty if there is none.
std::string ReasonOf(const grpc::Status& status);

}  // namespace graft

#endif  // GRAFT_TESTS_INTEGRATION_IN_PROCESS_DAEMON_H_
