#include "server/scheduling/fair_share.h"

#include <algorithm>
#include <limits>

namespace graft {
namespace {

// One step of an image of 8 x 8, the smallest there is: no request costs less.
constexpr int64_t kQuantum = 8 * 8;

// How many quanta lift `deficit` to `cost`.
int64_t QuantaNeeded(int64_t deficit, int64_t cost) {
  return deficit >= cost ? 0 : (cost - deficit + kQuantum - 1) / kQuantum;
}

}  // namespace

void FairShare::Enter(absl::string_view tenant) {
  if (shares_.find(tenant) != shares_.end()) return;
  Share entering;
  for (auto& [name, other] : shares_) {
    entering.deficit = std::min(entering.deficit, other.deficit);
    if (other.place >= cursor_) ++other.place;
  }
  // Just before the cursor: the place that is visited last.
  entering.place = cursor_;
  shares_.emplace(tenant, entering);
  if (shares_.size() > 1) {
    ++cursor_;
  } else {
    BeginVisit();
  }
}

void FairShare::Leave(absl::string_view tenant) {
  const auto leaving = shares_.find(tenant);
  if (leaving == shares_.end()) return;
  const size_t place = leaving->second.place;
  shares_.erase(leaving);
  if (shares_.empty()) had_.clear();  // nobody is left to compare with
  for (auto& [name, other] : shares_) {
    if (other.place > place) --other.place;
  }
  if (place < cursor_) {
    --cursor_;
  } else if (place == cursor_ && !shares_.empty()) {
    cursor_ %= shares_.size();
    BeginVisit();
  }
}

void FairShare::Bound(absl::Span<const TenantHead> heads) {
  int64_t least_debt = std::numeric_limits<int64_t>::min();  // as a deficit
  for (const TenantHead& head : heads) {
    least_debt = std::max(least_debt, deficit(head.tenant));
  }
  least_debt = std::min<int64_t>(least_debt, 0);
  for (const TenantHead& head : heads) {
    Share& share = shares_.find(head.tenant)->second;
    const int64_t lowest = least_debt - kMaxDebt * share.largest_charge;
    share.deficit = std::max(share.deficit, lowest - head.not_had);
    // A visit may begin with a quantum too many: who was before it has left.
    share.deficit = std::min(share.deficit, head.cost + kQuantum);
  }
}

size_t FairShare::Choose(absl::Span<const TenantHead> heads) const {
  size_t first = 0;
  Turn first_turn = TurnOf(heads[0]);
  for (size_t i = 1; i < heads.size(); ++i) {
    const Turn turn = TurnOf(heads[i]);
    if (!(turn < first_turn)) continue;
    first = i;
    first_turn = turn;
  }
  return first;
}

void FairShare::Serve(absl::Span<const TenantHead> heads, size_t chosen) {
  const Turn turn = TurnOf(heads[chosen]);
  for (const TenantHead& head : heads) {
    const size_t offset = TurnOf(head).offset;
    // The cursor's tenant had its quantum before pass 0; in the last pass,
    // those after the one that is served are not visited.
    const bool visited_in_last_pass = offset > 0 && offset <= turn.offset;
    shares_.find(head.tenant)->second.deficit +=
        kQuantum * (turn.pass + (visited_in_last_pass ? 1 : 0));
  }
  Share& served = shares_.find(heads[chosen].tenant)->second;
  served.deficit -= heads[chosen].cost;
  served.largest_charge = 0;
  cursor_ = served.place;
  Count(heads[chosen].tenant, heads[chosen].cost);
}

void FairShare::Charge(absl::string_view tenant, int64_t cost) {
  const auto share = shares_.find(tenant);
  if (share == shares_.end()) return;
  share->second.deficit -= cost;
  share->second.largest_charge = std::max(share->second.largest_charge, cost);
  Count(tenant, cost);
}

int64_t FairShare::deficit(absl::string_view tenant) const {
  return shares_.find(tenant)->second.deficit;
}

int64_t FairShare::had(absl::string_view tenant) const {
  const auto own = had_.find(tenant);
  return own == had_.end() ? had_by_all_ : own->second;
}

void FairShare::Count(absl::string_view tenant, int64_t cost) {
  const int64_t before = had(tenant);
  had_.insert_or_assign(std::string(tenant), before + cost);
  if (cost > 0) had_by_all_ = before;
  std::erase_if(had_,
                [this](const auto& own) { return own.second <= had_by_all_; });
}

void FairShare::BeginVisit() {
  for (auto& [name, share] : shares_) {
    if (share.place == cursor_) share.deficit += kQuantum;
  }
}

FairShare::Turn FairShare::TurnOf(const TenantHead& head) const {
  const Share& share = shares_.find(head.tenant)->second;
  const size_t offset =
      (share.place + shares_.size() - cursor_) % shares_.size();
  const int64_t quanta = QuantaNeeded(share.deficit, head.cost);
  // A visit grants one before it serves, except for the one that goes on now.
  const int64_t pass = offset == 0 ? quanta : std::max<int64_t>(0, quanta - 1);
  return {pass, offset};
}

}  // namespace graft
