#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_QUEUE_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_QUEUE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/request_replies.h"

namespace graft {

// A request that was accepted.
struct AcceptedRequest {
  int64_t id = 0;  // rises with each arrival
  std::shared_ptr<RequestReplies> replies;
  absl::Time accepted_at;
  int told_position = 0;  // in the queue, when the client last heard of it
};

// The requests that wait, in order of arrival. Thread-compatible: the
// scheduler's mutex guards it.
class RequestQueue {
 public:
  // REQUIRES: the id is new.
  void Push(AcceptedRequest request);

  // By id.
  std::map<int64_t, AcceptedRequest>& requests() { return requests_; }

  // Removes the one with this id. REQUIRES: it waits.
  AcceptedRequest Take(int64_t id);

  // Removes those whose client is gone or whose deadline has passed at `now`.
  std::vector<AcceptedRequest> TakeDead(absl::Time now);

  // Removes all.
  std::vector<AcceptedRequest> TakeAll();

 private:
  std::map<int64_t, AcceptedRequest> requests_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_QUEUE_H_
