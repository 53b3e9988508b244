#include "server/scheduling/task_liveness.h"

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {

absl::Status CheckTaskLiveness(const GenerationTask& task, absl::Time now,
                               const TaskProgress& progress) {
  // The deadline first: when it passes, gRPC reports a cancellation as well.
  if (now < task.deadline) {
    const bool cancelled = task.cancelled != nullptr &&
                           task.cancelled->load(std::memory_order_relaxed);
    if (!cancelled) return absl::OkStatus();
    return Error(ErrorReason::kClientCancelled,
                 "the client cancelled the request or went away");
  }
  if (!progress.started) {
    return Error(ErrorReason::kDeadlineInQueue,
                 "the deadline passed before the device began with the request",
                 {{"steps_done", "0"}});
  }
  return Error(ErrorReason::kDeadlineRunning,
               absl::StrCat("the deadline passed after ", progress.steps_done,
                            " of ", task.params.steps, " steps of image ",
                            progress.image_index + 1, " of ", task.count),
               {{"steps_done", absl::StrCat(progress.steps_done)},
                {"image_index", absl::StrCat(progress.image_index)}});
}

absl::Status ShutDownError() {
  return Error(ErrorReason::kAdminCancelled,
               "the server is shutting down and cannot wait any longer");
}

}  // namespace graft
