#include "server/scheduling/request_queue.h"

#include <utility>

#include "server/scheduling/task_liveness.h"

namespace graft {

void RequestQueue::Push(AcceptedRequest request) {
  const int64_t id = request.id;
  requests_.emplace(id, std::move(request));
}

AcceptedRequest RequestQueue::Take(int64_t id) {
  return std::move(requests_.extract(id).mapped());
}

std::vector<AcceptedRequest> RequestQueue::TakeDead(absl::Time now) {
  std::vector<AcceptedRequest> dead;
  for (auto it = requests_.begin(); it != requests_.end();) {
    if (CheckTaskLiveness(it->second.replies->task(), now, {}).ok()) {
      ++it;
    } else {
      dead.push_back(std::move(it->second));
      it = requests_.erase(it);
    }
  }
  return dead;
}

std::vector<AcceptedRequest> RequestQueue::TakeAll() {
  std::vector<AcceptedRequest> all;
  for (auto& [id, request] : requests_) all.push_back(std::move(request));
  requests_.clear();
  return all;
}

}  // namespace graft
