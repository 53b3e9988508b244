#include "server/scheduling/fair_share.h"

#include <algorithm>

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
  if (Find(tenant) != ring_.size()) return;
  int64_t deficit = 0;
  for (const Share& other : ring_) deficit = std::min(deficit, other.deficit);
  // Just before the cursor: the place that is visited last.
  ring_.insert(ring_.begin() + static_cast<std::ptrdiff_t>(cursor_),
               {std::string(tenant), deficit});
  if (ring_.size() > 1) {
    ++cursor_;
  } else {
    BeginVisit();
  }
}

void FairShare::Leave(absl::string_view tenant) {
  const size_t index = Find(tenant);
  if (index == ring_.size()) return;
  ring_.erase(ring_.begin() + static_cast<std::ptrdiff_t>(index));
  if (index < cursor_) {
    --cursor_;
  } else if (index == cursor_ && !ring_.empty()) {
    cursor_ %= ring_.size();
    BeginVisit();
  }
}

size_t FairShare::Choose(absl::Span<const TenantHead> heads) const {
  const auto first =
      std::min_element(heads.begin(), heads.end(),
                       [this](const TenantHead& a, const TenantHead& b) {
                         return TurnOf(a) < TurnOf(b);
                       });
  return static_cast<size_t>(first - heads.begin());
}

void FairShare::Serve(absl::Span<const TenantHead> heads, size_t chosen) {
  const Turn turn = TurnOf(heads[chosen]);
  const size_t served = Find(heads[chosen].tenant);
  for (const TenantHead& head : heads) {
    Share& share = ring_[Find(head.tenant)];
    const size_t offset = TurnOf(head).offset;
    // The cursor's tenant had its quantum before pass 0; in the last pass,
    // those after the one that is served are not visited.
    const bool visited_in_last_pass = offset > 0 && offset <= turn.offset;
    share.deficit += kQuantum * (turn.pass + (visited_in_last_pass ? 1 : 0));
  }
  ring_[served].deficit -= heads[chosen].cost;
  cursor_ = served;
}

void FairShare::Charge(absl::string_view tenant, int64_t cost) {
  const size_t index = Find(tenant);
  if (index != ring_.size()) ring_[index].deficit -= cost;
}

int64_t FairShare::deficit(absl::string_view tenant) const {
  return ring_[Find(tenant)].deficit;
}

void FairShare::BeginVisit() { ring_[cursor_].deficit += kQuantum; }

size_t FairShare::Find(absl::string_view tenant) const {
  const auto share = std::find_if(
      ring_.begin(), ring_.end(),
      [tenant](const Share& share) { return share.tenant == tenant; });
  return static_cast<size_t>(share - ring_.begin());
}

FairShare::Turn FairShare::TurnOf(const TenantHead& head) const {
  const size_t index = Find(head.tenant);
  const size_t offset = (index + ring_.size() - cursor_) % ring_.size();
  const int64_t quanta = QuantaNeeded(ring_[index].deficit, head.cost);
  // A visit grants one before it serves, except for the one that goes on now.
  const int64_t pass = offset == 0 ? quanta : std::max<int64_t>(0, quanta - 1);
  return {pass, offset};
}

}  // namespace graft
