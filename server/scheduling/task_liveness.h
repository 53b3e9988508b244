#ifndef GRAFT_SERVER_SCHEDULING_TASK_LIVENESS_H_
#define GRAFT_SERVER_SCHEDULING_TASK_LIVENESS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// How far a request has come.
struct TaskProgress {
  bool started = false;  // the device began with it
  int image_index = 0;
  int steps_done = 0;  // of that image
};

// Whether `task` is worth going on with at `now`: DEADLINE_IN_QUEUE or, once
// started, DEADLINE_RUNNING with the metadata "steps_done" and "image_index"
// when its deadline has passed; CLIENT_CANCELLED or, for an adapter that was
// withdrawn, ADMIN_CANCELLED when the task's flag is set; else OK.
absl::Status CheckTaskLiveness(const GenerationTask& task, absl::Time now,
                               const TaskProgress& progress);

// How accepted requests end when the server cannot wait for them any longer.
absl::Status ShutDownError();

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_TASK_LIVENESS_H_
