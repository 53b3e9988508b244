#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_RUNNER_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_RUNNER_H_

#include <atomic>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/common/clock.h"
#include "server/engine/engine.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/resident_adapters.h"
#include "server/scheduling/task_liveness.h"

namespace graft {

// Makes the images of one request at a time: switch, then for each image text
// conditioning, denoising steps, decoding. Looks before each stage and each
// step whether the request is still wanted. Owner-thread-only.
class RequestRunner {
 public:
  // All pointers outlive the runner. `aborting`: give up at the next step.
  // `between_steps` is called before each stage and step.
  RequestRunner(Engine* engine, ResidentAdapters* resident, const Clock* clock,
                const std::atomic<bool>* aborting,
                std::function<void()> between_steps);

  // Runs `request` to its end and reports it all, the end included.
  void Run(const AcceptedRequest& request);

 private:
  // One request on its way through the stages.
  struct Context {
    RequestReplies& replies;
    const GenerationTask& task;
    GenerationSummary summary;
    TaskProgress progress;
  };

  absl::Status RunStages(Context& context);
  absl::Status Switch(Context& context);
  absl::Status MakeImage(Context& context, int index);
  absl::Status Denoise(Context& context, Generation& generation);

  // Whether to go on.
  absl::Status Check(const Context& context) const;

  Engine* const engine_;
  ResidentAdapters* const resident_;
  const Clock* const clock_;
  const std::atomic<bool>* const aborting_;
  const std::function<void()> between_steps_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_RUNNER_H_
