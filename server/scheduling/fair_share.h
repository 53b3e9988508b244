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

// The request that a tenant would have served next, and what it costs.
struct TenantHead {
  std::string tenant;
  int64_t cost = 0;
};

// Shares the device among tenants by deficit round robin (Shreedhar and
// Varghese, 1996): each visit of the round grants a tenant a quantum, and a
// tenant is served when its deficit covers the cost of its head. Rounds that
// serve nobody are not walked but computed, so the quantum may be small, which
// makes the shares even. Costs are in pixels times steps: they stand for device
// time, the rate between the two being one for all.
//
// Service outside of the round (a request that joins a running batch) is
// charged to its tenant's deficit, which may become negative: the tenant then
// waits longer for its next turn.
//
// A value type; thread-compatible.
class FairShare {
 public:
  // Takes part from now on, as the last of the round, and with the largest debt
  // that another has: what the others were served while they had the device for
  // themselves gives nobody who comes later a claim. No effect if it does.
  void Enter(absl::string_view tenant);

  // Forgets a tenant that has no request left, its credit and its debt.
  void Leave(absl::string_view tenant);

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

 private:
  struct Share {
    int64_t deficit = 0;
    size_t place = 0;  // in the round
  };
  // When a head is served: in which pass of the round, and where in the pass.
  struct Turn {
    int64_t pass = 0;
    size_t offset = 0;  // from the cursor
    bool operator<(const Turn& other) const {
      return pass != other.pass ? pass < other.pass : offset < other.offset;
    }
  };

  // Grants the cursor's tenant the quantum of its visit.
  void BeginVisit();

  Turn TurnOf(const TenantHead& head) const;

  std::map<std::string, Share, std::less<>> shares_;  // by tenant
  // The place of the tenant whose visit it is; it has its quantum.
  size_t cursor_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_FAIR_SHARE_H_
