#include "server/scheduling/request_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/scheduling/scheduling_policy.h"
#include "server/scheduling/task_liveness.h"

namespace graft {

void RequestQueue::Push(AcceptedRequest request) {
  requests_.push_back(std::move(request));
}

AcceptedRequest RequestQueue::TakeNext() {
  std::vector<WaitingRequest> waiting;
  waiting.reserve(requests_.size());
  for (const AcceptedRequest& request : requests_) {
    waiting.push_back(
        {request.accepted_at, request.replies->task().request_class});
  }
  const auto chosen = requests_.begin() +
                      static_cast<std::ptrdiff_t>(ChooseNextRequest(waiting));
  AcceptedRequest request = std::move(*chosen);
  requests_.erase(chosen);
  return request;
}

std::vector<AcceptedRequest> RequestQueue::TakeDead(absl::Time now) {
  const auto dead = std::stable_partition(
      requests_.begin(), requests_.end(),
      [now](const AcceptedRequest& request) {
        return CheckTaskLiveness(request.replies->task(), now, {}).ok();
      });
  std::vector<AcceptedRequest> taken(std::make_move_iterator(dead),
                                     std::make_move_iterator(requests_.end()));
  requests_.erase(dead, requests_.end());
  return taken;
}

std::vector<AcceptedRequest> RequestQueue::TakeAll() {
  std::vector<AcceptedRequest> taken(std::make_move_iterator(requests_.begin()),
                                     std::make_move_iterator(requests_.end()));
  requests_.clear();
  return taken;
}

}  // namespace graft
