#include "server/scheduling/task_liveness.h"

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {
namespace {

bool IsSet(const CancelFlag& flag) {
  return flag != nullptr && flag->load(std::memory_order_relaxed);
}

}  // namespace

absl::Status CheckTaskLiveness(const GenerationTask& task, absl::Time now,
                               const TaskProgress& progress) {
  // The deadline first: when it passes, gRPC reports a cancellation as well.
  if (now < task.deadline) {
    if (IsSet(task.cancelled)) {
      return Error(ErrorReason::kClientCancelled,
                   "the client cancelled the request or went away");
    }
    if (IsSet(task.adapter_withdrawn)) {
      return Error(ErrorReason::kAdminCancelled,
                   "an adapter of the request was unloaded by force");
    }
    return absl::OkStatus();
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
