#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_QUEUE_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_QUEUE_H_

#include <deque>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/request_replies.h"

namespace graft {

// A request that was accepted.
struct AcceptedRequest {
  std::shared_ptr<RequestReplies> replies;
  absl::Time accepted_at;
};

// The requests that wait, at most `capacity` of them. Thread-compatible: the
// scheduler's mutex guards it.
class RequestQueue {
 public:
  explicit RequestQueue(int capacity) : capacity_(capacity) {}

  bool empty() const { return requests_.empty(); }
  bool full() const { return size() >= capacity_; }
  int size() const { return static_cast<int>(requests_.size()); }

  // REQUIRES: not full.
  void Push(AcceptedRequest request);

  // Removes the one that the policy chooses. REQUIRES: not empty.
  AcceptedRequest TakeNext();

  // Removes those whose client is gone or whose deadline has passed at `now`.
  std::vector<AcceptedRequest> TakeDead(absl::Time now);

  // Removes all.
  std::vector<AcceptedRequest> TakeAll();

 private:
  const int capacity_;
  std::deque<AcceptedRequest> requests_;  // in order of arrival
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_QUEUE_H_
