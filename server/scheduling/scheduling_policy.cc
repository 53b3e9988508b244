#include "server/scheduling/scheduling_policy.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "absl/types/span.h"

namespace graft {
namespace {

// Else some of what joins would be free.
static_assert(kMaxDebt >= kMaxPassedOver);

bool IsInteractive(const RequestView& request) {
  return request.priority == Priority::kInteractive;
}

// The key of the image that comes next.
const std::string& FrontKey(const RequestView& request) {
  return request.images.front().batch_key;
}

// The requests that are not begun and wanted by `filter`, the oldest of each
// tenant.
template <typename Filter>
std::vector<const RequestView*> OldestOfTenants(const SchedulingState& state,
                                                Filter filter) {
  std::vector<const RequestView*> oldest;
  std::unordered_set<std::string_view> tenants;
  for (const RequestView& request : state.requests) {
    if (request.started || !filter(request)) continue;
    if (tenants.insert(request.tenant).second) oldest.push_back(&request);
  }
  return oldest;
}

std::vector<TenantHead> ToHeads(
    const std::vector<const RequestView*>& requests) {
  std::vector<TenantHead> heads;
  heads.reserve(requests.size());
  for (const RequestView* const request : requests) {
    heads.push_back({.tenant = request->tenant, .cost = request->WorkLeft()});
  }
  return heads;
}

// The one that is harder to overtake: who may overtake it may overtake the
// other too. Either may be nullptr, which anybody may overtake.
const RequestView* HarderToOvertake(const RequestView* a,
                                    const RequestView* b) {
  if (a == nullptr || b == nullptr) return a == nullptr ? b : a;
  if (a->priority != b->priority) return IsInteractive(*a) ? a : b;
  return a->WorkLeft() <= b->WorkLeft() ? a : b;
}

// Of requests of different tenants, the one whose tenant has had least; the
// oldest of equals. nullptr if there is none.
const RequestView* OfLeastServedTenant(
    const std::vector<const RequestView*>& requests, const FairShare& shares) {
  const auto best =
      std::min_element(requests.begin(), requests.end(),
                       [&](const RequestView* a, const RequestView* b) {
                         const int64_t left = shares.had(a->tenant);
                         const int64_t right = shares.had(b->tenant);
                         return left != right ? left < right : a->id < b->id;
                       });
  return best == requests.end() ? nullptr : *best;
}

// Makes one BatchChoice.
class BatchChooser {
 public:
  explicit BatchChooser(const SchedulingState& state) : state_(state) {
    choice_.shares = state.shares;
    passed_over_.reserve(state.requests.size());
    for (const RequestView& request : state.requests) {
      passed_over_.push_back(request.passed_over);
    }
    BoundShares();
  }

  BatchChoice Choose() {
    ChooseLead();
    Start(*lead_);
    Add(*lead_, lead_->images.front());
    for (const auto priority : {Priority::kInteractive, Priority::kBatch}) {
      AddStarted(priority, /*begun=*/true);
      AddStarted(priority, /*begun=*/false);
      AddJoining(priority);
    }
    choice_.stop = WhyNoMore();
    CutToBucket();
    TellEffects();
    return std::move(choice_);
  }

 private:
  // A request that begins with this batch, and those that it keeps waiting.
  struct Joined {
    const RequestView* request = nullptr;
    std::vector<const RequestView*> passed_over = {};
    // Whose turn it is, if the request may overtake it.
    const RequestView* in_turn = nullptr;
  };

  // Before anything is decided: turns, and who is served least.
  void BoundShares() {
    std::vector<TenantHead> heads = ToHeads(Waiting());
    for (const RequestView& request : state_.requests) {
      if (!request.started) continue;
      for (TenantHead& head : heads) {
        if (head.tenant == request.tenant) head.not_had += request.WorkLeft();
      }
    }
    choice_.shares.Bound(heads);
  }

  // ---- The first member ----

  void ChooseLead() {
    const RequestView* const begun_first = BegunFirst();
    lead_ = begun_first != nullptr ? begun_first : NextInTurn();
    while (const RequestView* const urgent = Overtaker(*lead_)) {
      overtaken_ = std::exchange(lead_, urgent);
    }
    key_ = &FrontKey(*lead_);
  }

  // Not the oldest: one that began later, by joining a batch, must not slice
  // what it has joined. nullptr if none has begun.
  const RequestView* BegunFirst() const {
    const RequestView* first = nullptr;
    for (const RequestView& request : state_.requests) {
      if (!request.started) continue;
      if (first == nullptr || request.start_order < first->start_order) {
        first = &request;
      }
    }
    return first;
  }

  // The oldest request of each tenant, of those that wait and do not join.
  std::vector<const RequestView*> Waiting() const {
    return OldestOfTenants(
        state_, [this](const RequestView& other) { return !IsJoining(other); });
  }

  // The request whose tenant's turn it is; nullptr if none waits.
  const RequestView* NextInTurn() const {
    const std::vector<const RequestView*> waiting = Waiting();
    if (waiting.empty()) return nullptr;
    return waiting[choice_.shares.Choose(ToHeads(waiting))];
  }

  // Who runs in place of `request`; nullptr if nobody. One that has begun comes
  // first: its overtaking is counted already.
  const RequestView* Overtaker(const RequestView& request) const {
    for (const RequestView& other : state_.requests) {
      if (other.started && MayOvertake(other, request)) return &other;
    }
    if (request.overtaken >= kMaxOvertaken) return nullptr;
    for (const bool interactive : {true, false}) {
      const RequestView* const urgent = OfLeastServedTenant(
          OldestOfTenants(state_,
                          [&](const RequestView& other) {
                            return IsInteractive(other) == interactive &&
                                   MayOvertake(other, request);
                          }),
          choice_.shares);
      if (urgent != nullptr) return urgent;
    }
    return nullptr;
  }

  // Begins with the lead, if it waits, and takes its turn or its charge.
  void Start(const RequestView& lead) {
    if (lead.started) return;
    const std::vector<const RequestView*> waiting = Waiting();
    const std::vector<TenantHead> heads = ToHeads(waiting);
    const size_t in_turn = choice_.shares.Choose(heads);
    if (waiting[in_turn] == &lead) {
      choice_.shares.Serve(heads, in_turn);
    } else {
      choice_.shares.Charge(lead.tenant, lead.WorkLeft());
    }
    joined_.push_back({&lead});
  }

  // ---- The others ----

  void Add(const RequestView& request, const ImageView& image) {
    choice_.images.push_back({request.id, image.index});
  }

  bool Full() const {
    return choice_.images.size() >= static_cast<size_t>(state_.max_batch_size);
  }

  bool InBatch(const RequestView& request, const ImageView& image) const {
    return std::any_of(choice_.images.begin(), choice_.images.end(),
                       [&](const BatchImage& member) {
                         return member.request_id == request.id &&
                                member.image_index == image.index;
                       });
  }

  bool InBatch(const RequestView& request) const {
    return std::any_of(choice_.images.begin(), choice_.images.end(),
                       [&](const BatchImage& member) {
                         return member.request_id == request.id;
                       });
  }

  bool IsJoining(const RequestView& request) const {
    return std::any_of(
        joined_.begin(), joined_.end(),
        [&](const Joined& joined) { return joined.request == &request; });
  }

  // Adds the images of `request` that are (not) begun and fit.
  void AddImages(const RequestView& request, bool begun) {
    for (const ImageView& image : request.images) {
      if (Full()) return;
      if (image.begun == begun && image.batch_key == *key_ &&
          !InBatch(request, image)) {
        Add(request, image);
      }
    }
  }

  // The same for all requests of a class that have begun, the lead first.
  void AddStarted(Priority priority, bool begun) {
    if (lead_->priority == priority) AddImages(*lead_, begun);
    for (const RequestView& request : state_.requests) {
      if (request.started && request.priority == priority) {
        AddImages(request, begun);
      }
    }
  }

  // A request that could join, and what its tenant has had.
  struct Candidate {
    const RequestView* request = nullptr;
    int64_t had = 0;

    // The least served tenant comes first, and the oldest of equals.
    bool IsBefore(const Candidate& other) const {
      return had != other.had ? had < other.had
                              : request->id < other.request->id;
    }
  };

  // Asks one after the other; who may not join is not asked again. There may
  // be many of those, so that the next one that may is found in one pass.
  void AddJoining(Priority priority) {
    if (Full()) return;
    const RequestView* const in_turn = NextInTurn();
    std::vector<Candidate> candidates = Candidates(priority);
    while (!Full()) {
      const auto next = NextToJoin(candidates, in_turn);
      if (next == candidates.end()) return;
      const Candidate joining = *next;
      std::erase_if(candidates, [&](const Candidate& other) {
        return !joining.IsBefore(other);
      });
      Join(*joining.request, in_turn);
      for (Candidate& other : candidates) {
        other.had = choice_.shares.had(other.request->tenant);
      }
    }
  }

  // In order of arrival.
  std::vector<Candidate> Candidates(Priority priority) const {
    std::vector<Candidate> candidates;
    for (const RequestView& request : state_.requests) {
      if (!request.started && request.priority == priority &&
          FrontKey(request) == *key_ && !IsJoining(request)) {
        candidates.push_back({&request, choice_.shares.had(request.tenant)});
      }
    }
    return candidates;
  }

  // The first that may join, end() if none may.
  std::vector<Candidate>::const_iterator NextToJoin(
      const std::vector<Candidate>& candidates,
      const RequestView* in_turn) const {
    auto first = candidates.end();
    // Who joins a batch that overtook another keeps it waiting as well.
    if (!MayBeOvertaken(overtaken_)) return first;
    // Of those that the candidate comes after and that nobody may pass over
    // again, the one that is hardest to overtake: it decides for all.
    const RequestView* barrier = nullptr;
    if (in_turn != nullptr && IsAtLimit(*in_turn)) barrier = in_turn;
    auto earlier = state_.requests.begin();
    for (auto it = candidates.begin(); it != candidates.end(); ++it) {
      const RequestView& request = *it->request;
      for (; earlier->id < request.id; ++earlier) {
        if (IsAtLimit(*earlier)) barrier = HarderToOvertake(barrier, &*earlier);
      }
      if (barrier != nullptr && !MayOvertake(request, *barrier)) continue;
      // As does the urgent one that joins instead of whose turn it is.
      if (Overtakes(request, in_turn) && !MayBeOvertaken(in_turn)) continue;
      if (first == candidates.end() || it->IsBefore(*first)) first = it;
    }
    return first;
  }

  void Join(const RequestView& request, const RequestView* in_turn) {
    Joined joined{&request, PassedOverBy(request, in_turn)};
    for (const RequestView* const other : joined.passed_over) {
      ++passed_over_[PlaceInState(*other)];
    }
    if (Overtakes(request, in_turn)) joined.in_turn = in_turn;
    joined_.push_back(std::move(joined));
    choice_.shares.Charge(request.tenant, request.WorkLeft());
    AddImages(request, /*begun=*/false);
  }

  static bool Overtakes(const RequestView& joining,
                        const RequestView* in_turn) {
    return in_turn != nullptr && in_turn != &joining &&
           MayOvertake(joining, *in_turn);
  }

  // Those that came before `joining`, or whose turn it is, and cannot be in
  // this batch. Whom it may overtake is not counted here: ageing sees to them.
  std::vector<const RequestView*> PassedOverBy(
      const RequestView& joining, const RequestView* in_turn) const {
    std::vector<const RequestView*> passed;
    for (const RequestView& other : state_.requests) {
      if ((other.id < joining.id || &other == in_turn) && StaysOut(other) &&
          !MayOvertake(joining, other)) {
        passed.push_back(&other);
      }
    }
    return passed;
  }

  // Whether `other` cannot be in this batch.
  bool StaysOut(const RequestView& other) const {
    return FrontKey(other) != *key_ && !InBatch(other);
  }

  // Whether nobody may pass over `other` again.
  bool IsAtLimit(const RequestView& other) const {
    return passed_over_[PlaceInState(other)] >= kMaxPassedOver &&
           StaysOut(other);
  }

  size_t PlaceInState(const RequestView& request) const {
    return static_cast<size_t>(&request - state_.requests.data());
  }

  // Whether one more may join and keep `other` (nullptr: nobody) waiting.
  bool MayBeOvertaken(const RequestView* other) const {
    return other == nullptr || InBatch(*other) ||
           other->overtaken + static_cast<int>(joined_.size()) < kMaxOvertaken;
  }

  // ---- The end ----

  // REQUIRES: before images are cut off.
  BatchStop WhyNoMore() const {
    const int size = static_cast<int>(choice_.images.size());
    if (Full() || BatchBucket(size) < size) return BatchStop::kFull;
    BatchStop stop = BatchStop::kQueueEmpty;
    for (const RequestView& request : state_.requests) {
      for (const ImageView& image : request.images) {
        if (InBatch(request, image)) continue;
        if (image.batch_key == *key_) return BatchStop::kFairness;
        stop = BatchStop::kIncompatible;
      }
    }
    return stop;
  }

  // Drops the last images; requests that would have begun with them alone wait
  // on.
  void CutToBucket() {
    choice_.images.resize(static_cast<size_t>(
        BatchBucket(static_cast<int>(choice_.images.size()))));
    while (!joined_.empty() && !InBatch(*joined_.back().request)) {
      const RequestView& request = *joined_.back().request;
      choice_.shares.Charge(request.tenant, -request.WorkLeft());
      joined_.pop_back();
    }
  }

  void TellEffects() {
    const bool keeps_waiting = overtaken_ != nullptr && !InBatch(*overtaken_);
    for (const Joined& joined : joined_) {
      choice_.starting.push_back(joined.request->id);
      for (const RequestView* const other : joined.passed_over) {
        choice_.passed_over.push_back(other->id);
      }
      if (keeps_waiting) choice_.overtaken.push_back(overtaken_->id);
      if (joined.in_turn != nullptr && joined.in_turn != overtaken_ &&
          !InBatch(*joined.in_turn)) {
        choice_.overtaken.push_back(joined.in_turn->id);
      }
    }
  }

  const SchedulingState& state_;
  const RequestView* lead_ = nullptr;
  const RequestView* overtaken_ = nullptr;  // ran if the lead did not
  const std::string* key_ = nullptr;        // of the batch
  std::vector<Joined> joined_;              // in the order of their images
  std::vector<int> passed_over_;  // by place in the state, with those who join
  BatchChoice choice_;
};

}  // namespace

int64_t RequestView::WorkLeft() const {
  int64_t work = 0;
  for (const ImageView& image : images) work += image.work_left;
  return work;
}

int BatchBucket(int size) {
  if (size <= 4) return size;
  int bucket = 4;
  while (bucket * 2 <= size) bucket *= 2;
  return bucket + bucket / 2 <= size ? bucket + bucket / 2 : bucket;
}

bool MayOvertake(const RequestView& urgent, const RequestView& other) {
  if (urgent.priority != other.priority) return IsInteractive(urgent);
  return urgent.WorkLeft() * kLongJob <= other.WorkLeft();
}

BatchChoice ChooseBatch(const SchedulingState& state) {
  return BatchChooser(state).Choose();
}

QueuePlace PlaceOf(const SchedulingState& state, const RequestView& waiting) {
  QueuePlace place;
  std::map<std::string, int64_t> waiting_work;  // by tenant
  for (const RequestView& request : state.requests) {
    if (request.id == waiting.id) continue;
    const bool is_before = request.started || request.id < waiting.id;
    if (is_before ? MayOvertake(waiting, request)
                  : !MayOvertake(request, waiting)) {
      continue;
    }
    ++place.position;
    (request.started ? place.work_ahead : waiting_work[request.tenant]) +=
        request.WorkLeft();
  }
  const int64_t own = waiting_work[waiting.tenant];
  for (const auto& [tenant, work] : waiting_work) {
    place.work_ahead += tenant == waiting.tenant
                            ? work
                            : std::min(work, own + waiting.WorkLeft());
  }
  return place;
}

bool BeginsNext(const SchedulingState& state, const RequestView& newcomer) {
  SchedulingState with_newcomer = state;
  with_newcomer.requests.push_back(newcomer);
  with_newcomer.shares.Enter(newcomer.tenant);
  const BatchChoice choice = ChooseBatch(with_newcomer);
  return std::find(choice.starting.begin(), choice.starting.end(),
                   newcomer.id) != choice.starting.end();
}

}  // namespace graft
