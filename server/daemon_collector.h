#ifndef GRAFT_SERVER_DAEMON_COLLECTOR_H_
#define GRAFT_SERVER_DAEMON_COLLECTOR_H_

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <atomic>
#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/serving_state.h"

namespace graft {

// The first `max` different names as they are, then "_other", which is no
// adapter's name: a label with any number of values would fill Prometheus'
// memory. Thread-safe.
class BoundedNames {
 public:
  explicit BoundedNames(size_t max) : max_(max) {}

  // `name` as a label's value: the same one each time.
  std::string Label(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (names_.size() < max_) names_.insert(name);
    return names_.count(name) > 0 ? name : "_other";
  }

 private:
  const size_t max_;
  absl::Mutex mu_;
  std::set<std::string> names_ ABSL_GUARDED_BY(mu_);
};

// Metrics that are read from the backend whenever somebody asks, and what the
// process takes. Thread-safe.
class DaemonCollector : public prometheus::Collectable {
 public:
  // Adapters are called what `adapter_names`, which outlives this, calls them.
  explicit DaemonCollector(BoundedNames* adapter_names)
      : adapter_names_(*adapter_names) {}

  // From now on there is this backend; null: none. It outlives all calls of
  // Collect until the next SetBackend.
  void SetBackend(const Backend* backend) { backend_ = backend; }

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  BoundedNames& adapter_names_;
  std::atomic<const Backend*> backend_{nullptr};
};

}  // namespace graft

#endif  // GRAFT_SERVER_DAEMON_COLLECTOR_H_
