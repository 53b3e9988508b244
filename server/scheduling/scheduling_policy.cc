#include "server/scheduling/scheduling_policy.h"

#include <algorithm>

namespace graft {

size_t ChooseNextRequest(absl::Span<const WaitingRequest> waiting) {
  const auto oldest =
      std::min_element(waiting.begin(), waiting.end(),
                       [](const WaitingRequest& a, const WaitingRequest& b) {
                         return a.accepted_at < b.accepted_at;
                       });
  return static_cast<size_t>(oldest - waiting.begin());
}

}  // namespace graft
