#include "server/scheduling/request_ledger.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace graft {

int64_t RequestLedger::work_left() const {
  int64_t work = 0;
  for (const RequestView& request : state_.requests) work += request.WorkLeft();
  return work;
}

bool RequestLedger::HasWaiting(absl::string_view tenant) const {
  return std::any_of(state_.requests.begin(), state_.requests.end(),
                     [tenant](const RequestView& request) {
                       return !request.started && request.tenant == tenant;
                     });
}

void RequestLedger::Add(RequestView request) {
  ++waiting_;
  waiting_work_ += request.WorkLeft();
  ++requests_of_tenant_[request.tenant];
  state_.shares.Enter(request.tenant);
  state_.requests.push_back(std::move(request));
}

BatchChoice RequestLedger::Next() {
  BatchChoice choice = ChooseBatch(state_);
  state_.shares = choice.shares;
  for (const int64_t id : choice.starting) {
    RequestView& request = Find(id);
    request.started = true;
    request.start_order = ++starts_;
    --waiting_;
    waiting_work_ -= request.WorkLeft();
  }
  for (const int64_t id : choice.passed_over) ++Find(id).passed_over;
  for (const int64_t id : choice.overtaken) {
    if (++Find(id).overtaken == kMaxOvertaken) {
      steps_owed_[id] = kStepsAfterYielding;
    }
  }
  return choice;
}

void RequestLedger::MadeStep(int64_t id, std::vector<ImageView> images) {
  RequestView& request = Find(id);
  request.images = std::move(images);
  const auto owed = steps_owed_.find(id);
  if (owed != steps_owed_.end() && --owed->second == 0) {
    steps_owed_.erase(owed);
    request.overtaken = 0;
  }
}

void RequestLedger::Remove(int64_t id, int64_t unused_work) {
  const RequestView& request = Find(id);
  if (request.started) {
    state_.shares.Charge(request.tenant, -unused_work);
  } else {
    --waiting_;
    waiting_work_ -= request.WorkLeft();
  }
  const auto tenant = requests_of_tenant_.find(request.tenant);
  if (--tenant->second == 0) {
    state_.shares.Leave(tenant->first);
    requests_of_tenant_.erase(tenant);
  }
  steps_owed_.erase(id);
  state_.requests.erase(state_.requests.begin() +
                        (&request - state_.requests.data()));
}

RequestView& RequestLedger::Find(int64_t id) {
  return *std::lower_bound(
      state_.requests.begin(), state_.requests.end(), id,
      [](const RequestView& request, int64_t id) { return request.id < id; });
}

}  // namespace graft
