#ifndef GRAFT_SERVER_SCHEDULING_SCHEDULING_POLICY_H_
#define GRAFT_SERVER_SCHEDULING_SCHEDULING_POLICY_H_

#include <cstddef>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// What the policy may know of a waiting request.
struct WaitingRequest {
  absl::Time accepted_at;
  RequestClass request_class = RequestClass::kInteractive;
};

// Index of the request to run next: first come, first served. A pure function
// of its argument. REQUIRES: `waiting` is not empty.
size_t ChooseNextRequest(absl::Span<const WaitingRequest> waiting);

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_SCHEDULING_POLICY_H_
