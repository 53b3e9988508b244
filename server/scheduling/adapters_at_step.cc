#include "server/scheduling/adapters_at_step.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace graft {
namespace {

// What `adapter` weighs at a step: its own weights, those of a range, or none.
WeightRange WeightsAtStep(const RequestedAdapter& adapter, int step,
                          int steps) {
  if (adapter.schedule.empty()) {
    return {.weight = adapter.weight,
            .text_encoder_weight = adapter.text_encoder_weight};
  }
  const WeightRange* const range = RangeAtStep(adapter.schedule, step, steps);
  return range != nullptr ? *range
                          : WeightRange{.weight = 0, .text_encoder_weight = 0};
}

// Calls `visit(adapter, weights)` for each adapter that is merged at a step.
template <typename Visitor>
void ForEachMerged(absl::Span<const RequestedAdapter> adapters, int step,
                   int steps, Visitor visit) {
  for (const RequestedAdapter& adapter : adapters) {
    const WeightRange weights = WeightsAtStep(adapter, step, steps);
    if (weights.weight != 0 || weights.text_encoder_weight != 0) {
      visit(adapter, weights);
    }
  }
}

}  // namespace

std::vector<AppliedAdapter> ToAppliedAdapters(
    absl::Span<const RequestedAdapter> adapters) {
  std::vector<AppliedAdapter> applied;
  applied.reserve(adapters.size());
  for (const RequestedAdapter& adapter : adapters) {
    applied.push_back({adapter.handle.name(), adapter.handle.sha256(),
                       adapter.weight, adapter.text_encoder_weight,
                       adapter.schedule});
  }
  return applied;
}

std::vector<AppliedAdapter> AdaptersAtStep(
    absl::Span<const RequestedAdapter> adapters, int step, int steps) {
  std::vector<AppliedAdapter> merged;
  ForEachMerged(
      adapters, step, steps, [&](const auto& adapter, const auto& at) {
        merged.push_back({adapter.handle.name(), adapter.handle.sha256(),
                          at.weight, at.text_encoder_weight});
      });
  return merged;
}

AdapterSet EngineSetAtStep(absl::Span<const RequestedAdapter> adapters,
                           int step, int steps) {
  AdapterSet set;
  ForEachMerged(
      adapters, step, steps, [&](const auto& adapter, const auto& at) {
        set.push_back(
            {adapter.handle.prepared(), at.weight, at.text_encoder_weight});
      });
  return set;
}

std::string AdapterSetKey(absl::Span<const AppliedAdapter> set) {
  std::vector<std::string> members;
  members.reserve(set.size());
  for (const AppliedAdapter& adapter : set) {
    // Hexadecimal: all bits of the weights; adding 0 makes -0 equal to 0.
    members.push_back(absl::StrFormat("%s=%a/%a", adapter.sha256,
                                      adapter.weight + 0.0,
                                      adapter.text_encoder_weight + 0.0));
  }
  std::sort(members.begin(), members.end());
  return absl::StrJoin(members, ",");
}

}  // namespace graft
