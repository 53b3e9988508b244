#ifndef GRAFT_SERVER_SCHEDULING_SCHEDULER_LOAD_H_
#define GRAFT_SERVER_SCHEDULING_SCHEDULER_LOAD_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// What a scheduler has to do at one moment.
struct SchedulerLoad {
  int waiting = 0;     // requests that were accepted and have not begun
  int running = 0;     // requests that have begun, those included that yield
  int unfinished = 0;  // requests that were accepted and whose end is not told
  int batch_size = 0;  // images in the step that runs now or ran last; 0: idle
  int64_t waiting_work = 0;  // steps x images x pixels of those that wait
  // Until all that was accepted is done; zero if the speed is not known yet.
  absl::Duration backlog;
  // Merged now, with the weights of this moment.
  std::vector<AppliedAdapter> resident;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_SCHEDULER_LOAD_H_
