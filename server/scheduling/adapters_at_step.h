#ifndef GRAFT_SERVER_SCHEDULING_ADAPTERS_AT_STEP_H_
#define GRAFT_SERVER_SCHEDULING_ADAPTERS_AT_STEP_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/engine/engine.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// `adapters` as a reply tells them, schedules included.
std::vector<AppliedAdapter> ToAppliedAdapters(
    absl::Span<const RequestedAdapter> adapters);

// Those of `adapters` that are merged at step `step` (from 0) of `steps`, with
// their weights at that step and without schedules. An adapter outside of its
// ranges, or with weight 0 in both parts, is not merged. Begin belongs to step
// 0. REQUIRES: no adapter's ranges overlap.
std::vector<AppliedAdapter> AdaptersAtStep(
    absl::Span<const RequestedAdapter> adapters, int step, int steps);

// The same as the engine takes it.
AdapterSet EngineSetAtStep(absl::Span<const RequestedAdapter> adapters,
                           int step, int steps);

// Equal for equal sets, whatever their order and the adapters' names, and
// different for different ones.
std::string AdapterSetKey(absl::Span<const AppliedAdapter> set);

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_ADAPTERS_AT_STEP_H_
