#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_LEDGER_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_LEDGER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/scheduling/scheduling_policy.h"

namespace graft {

// The state that the policy decides over, and the bookkeeping of its decisions:
// who has begun, who was passed over, what each tenant has had. The scheduler
// and the simulator keep one each. Thread-compatible.
class RequestLedger {
 public:
  explicit RequestLedger(int max_batch_size) {
    set_max_batch_size(max_batch_size);
  }

  bool empty() const { return state_.requests.empty(); }
  int waiting() const { return waiting_; }  // not begun
  int started() const {
    return static_cast<int>(state_.requests.size()) - waiting_;
  }
  int64_t waiting_work() const { return waiting_work_; }  // of waiting()
  int64_t work_left() const;                              // of all
  bool HasWaiting(absl::string_view tenant) const;
  const SchedulingState& state() const { return state_; }

  // From the next choice on.
  void set_max_batch_size(int max_batch_size) {
    state_.max_batch_size = max_batch_size;
  }
  int max_batch_size() const { return state_.max_batch_size; }

  // A new request. REQUIRES: its id is larger than all before.
  void Add(RequestView request);

  // Decides with ChooseBatch who makes the next step. REQUIRES: not empty.
  BatchChoice Next();

  // A request made a step; `images` are the ones that are left to it, at least
  // one. REQUIRES: has begun.
  void MadeStep(int64_t id, std::vector<ImageView> images);

  // A request is over. If it has begun, its tenant gets back what it paid for
  // the `unused_work`.
  void Remove(int64_t id, int64_t unused_work = 0);

 private:
  RequestView& Find(int64_t id);

  SchedulingState state_;
  int waiting_ = 0;
  int64_t waiting_work_ = 0;
  int64_t starts_ = 0;  // so far
  std::map<std::string, int> requests_of_tenant_;
  // What kStepsAfterYielding still owes to requests that were overtaken
  // kMaxOvertaken times.
  std::map<int64_t, int> steps_owed_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_LEDGER_H_
