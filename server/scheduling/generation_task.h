#ifndef GRAFT_SERVER_SCHEDULING_GENERATION_TASK_H_
#define GRAFT_SERVER_SCHEDULING_GENERATION_TASK_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/adapters/adapter_handle.h"
#include "server/engine/generation_params.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/weight_schedule.h"

namespace graft {

// Whether somebody waits for the images: interactive requests go before batch
// ones, at every step.
enum class Priority { kInteractive, kBatch };

// Set by whoever learns that the client is gone or asked to cancel; read
// between steps. Shared by the reactor and the task.
using CancelFlag = std::shared_ptr<std::atomic<bool>>;

// One adapter of a request, pinned from admission to reply.
struct RequestedAdapter {
  AdapterHandle handle;
  double weight = 1.0;
  double text_encoder_weight = 1.0;
  // Weights by step range, which do not overlap; outside of them the adapter is
  // not merged. Empty: the weights above throughout.
  std::vector<WeightRange> schedule = {};
};

// One validated request with all that it needs: its adapter set is the whole
// truth about which adapters are merged while it runs.
struct GenerationTask {
  GenerationParams params;  // of image 0; image i has seed + i
  int count = 1;
  // A preview after every so many steps; 0: none.
  int preview_interval = 0;
  std::vector<RequestedAdapter> adapters;
  std::shared_ptr<GenerationObserver> observer;
  CancelFlag cancelled;
  // Set by the scheduler when somebody unloads one of the adapters by force.
  CancelFlag adapter_withdrawn;
  absl::Time deadline = absl::InfiniteFuture();  // on the scheduler's Clock
  std::string request_id;
  std::string traceparent;  // W3C trace context, empty if none
  // What the request has waited for its adapters before it was submitted.
  absl::Duration adapter_load;
  std::string tenant = "default";
  Priority priority = Priority::kInteractive;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_GENERATION_TASK_H_
