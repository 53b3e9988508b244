#ifndef GRAFT_SERVER_SCHEDULING_FAIR_SHARE_H_
#define GRAFT_SERVER_SCHEDULING_FAIR_SHARE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft {

// How many requests a tenant may owe at most: as many as may pass over one of
// another tenant (kMaxPassedOver), so that what joins batches is paid in full.
inline constexpr int64_t kMaxDebt = 8;

// The request that a tenant would have served next, and what it costs.
struct TenantHead {
  std::string tenant;
  int64_t cost = 0;
  // What the tenant was charged for and has not had yet: it may be given back.
  int64_t not_had = 0;
};

// Shares the device among tenants. Costs are in pixels times steps: they stand
// for device time, the rate between the two being one for all.
//
// Whose turn it is, is decided by deficit round robin (Shreedhar and Varghese,
// 1996): each visit of the round grants a tenant a quantum, and a tenant is
// served when its deficit covers the cost of its head. Rounds that serve nobody
// are not walked but computed, so the quantum may be small, which makes the
// shares even.
//
// Service outside of the round (a request that joins a running batch, or runs
// in place of a less urgent one) is charged to its tenant's deficit, which may
// become negative: the tenant then waits longer for its next turn. Urgent
// requests take from others without end, and requests are cancelled, so that
// debt and credit have bounds: else they would decide for hours whose turn it
// is.
//
// Who is served outside of the round is decided by what each tenant has had of
// late, by start-time fair queueing (Goyal, Vin and Cheng, 1996). Debts would
// not do: among tenants that owe as much as is counted nothing would tell who
// has had less, and who comes later would either owe what it never had, or be
// preferred for as long as the others were.
//
// A value type; thread-compatible.
class FairShare {
 public:
  // Takes part from now on, as the last of the round, and with the largest debt
  // that another has: what the others were served while they had the device for
  // themselves gives nobody who comes later a claim. That debt is not its own:
  // beside a tenant that waits and has less, Bound forgives it. No effect if it
  // does.
  void Enter(absl::string_view tenant);

  // Forgets a tenant that has no request left, its credit and its debt.
  void Leave(absl::string_view tenant);

  // Bounds the debts and the credit of those who wait, before anything is
  // decided that depends on them. REQUIRES: `heads` names tenants that take
  // part, each once.
  //
  // A debt is not larger than the least debt of them all by more than kMaxDebt
  // times the largest charge since the tenant's last turn. Only what was had is
  // forgiven, not what may be given back: who begins much and cancels it would
  // be paid back what was forgiven.
  //
  // Credit does not exceed what the head costs. The round grants no more; it
  // comes of cancelling what was paid for, perhaps while nobody else waited.
  void Bound(absl::Span<const TenantHead> heads);

  // Index of the head whose turn it is. REQUIRES: `heads` is not empty, and
  // names tenants that take part, each once.
  size_t Choose(absl::Span<const TenantHead> heads) const;

  // Takes the turn: grants what the rounds up to heads[chosen] give to each,
  // and charges its cost. REQUIRES: chosen == Choose(heads).
  void Serve(absl::Span<const TenantHead> heads, size_t chosen);

  // Service outside of the round; negative: it was not used after all. No
  // effect for a tenant that does not take part.
  void Charge(absl::string_view tenant, int64_t cost);

  // What the tenant may still spend. REQUIRES: takes part.
  int64_t deficit(absl::string_view tenant) const;

  // What the tenant, which need not take part, has had, to be compared with
  // others. Counts as no less than what the one that was served last had had
  // before: who did not want the device earlier, or was not urgent enough, has
  // no claim from that.
  int64_t had(absl::string_view tenant) const;

 private:
  struct Share {
    int64_t deficit = 0;
    int64_t largest_charge = 0;  // since its last turn, which paid for all
    size_t place = 0;            // in the round
  };
  // When a head is served: in which pass of the round, and where in the pass.
  struct Turn {
    int64_t pass = 0;
    size_t offset = 0;  // from the cursor
    bool operator<(const Turn& other) const {
      return pass != other.pass ? pass < other.pass : offset < other.offset;
    }
  };

  // Writes down for had() that the tenant is served.
  void Count(absl::string_view tenant, int64_t cost);

  // Grants the cursor's tenant the quantum of its visit.
  void BeginVisit();

  Turn TurnOf(const TenantHead& head) const;

  std::map<std::string, Share, std::less<>> shares_;  // by tenant
  // The place of the tenant whose visit it is; it has its quantum.
  size_t cursor_ = 0;

  // What tenants have had, if that is more than what all count as having had.
  std::map<std::string, int64_t, std::less<>> had_;
  int64_t had_by_all_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_FAIR_SHARE_H_
