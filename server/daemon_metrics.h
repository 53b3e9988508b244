#ifndef GRAFT_SERVER_DAEMON_METRICS_H_
#define GRAFT_SERVER_DAEMON_METRICS_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/serving_state.h"
#include "server/scheduling/batch_runner.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// What the daemon counts and measures, in Prometheus' form: names begin with
// graft_, units are seconds and bytes, and no label holds what a client wrote
// but the names of loaded adapters. Thread-safe.
class DaemonMetrics {
 public:
  // Adapters that have a value of their own in labels.
  static constexpr size_t kMaxAdapterNames = 1000;

  DaemonMetrics();
  ~DaemonMetrics();  // as StopListening
  DaemonMetrics(const DaemonMetrics&) = delete;
  DaemonMetrics& operator=(const DaemonMetrics&) = delete;

  // Serves http://HOST:PORT/metrics on `address`. INVALID_FIELD (field
  // "metrics_listen") if the address cannot be had.
  absl::Status Listen(const std::string& address);

  // The port of Listen. REQUIRES: Listen was OK.
  int port() const;

  // Nobody looks at the backend any more.
  void StopListening();

  // From now on queue, memory and adapters are read from `backend`, which lives
  // until StopListening.
  void SetBackend(const Backend* backend);

  // `hooks`, counting.
  RpcHooks Count(RpcHooks hooks);

  // A step of the device was made. `merged`: adapters are, now.
  void OnStep(const BatchReport& report);

  // The base's weights were verified.
  void OnVerified(const absl::StatusOr<VerifyReport>& report);

  // What is known of the base's weights has changed.
  void OnDrift(const absl::Status& status);

 private:
  struct Instruments;

  void OnRpc(const RpcContext& rpc, const absl::Status& status,
             absl::Duration duration);
  void OnGenerated(const absl::Status& status,
                   const GenerationSummary& summary);

  const std::unique_ptr<Instruments> instruments_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_DAEMON_METRICS_H_
