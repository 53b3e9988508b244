#ifndef GRAFT_SERVER_DAEMON_COLLECTOR_H_
#define GRAFT_SERVER_DAEMON_COLLECTOR_H_

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <atomic>
#include <vector>

#include "server/rpc/serving_state.h"

namespace graft {

// Metrics that are read from the backend whenever somebody asks, and what the
// process takes. Thread-safe.
class DaemonCollector : public prometheus::Collectable {
 public:
  // From now on there is this backend; null: none. It outlives all calls of
  // Collect until the next SetBackend.
  void SetBackend(const Backend* backend) { backend_ = backend; }

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  std::atomic<const Backend*> backend_{nullptr};
};

}  // namespace graft

#endif  // GRAFT_SERVER_DAEMON_COLLECTOR_H_
