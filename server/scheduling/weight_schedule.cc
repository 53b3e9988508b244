#include "server/scheduling/weight_schedule.h"

#include <cmath>

namespace graft {
namespace {

// The first step that is not before `fraction` of `steps`. A product that is a
// whole number but for its last bits counts as that number.
int FirstStepFrom(double fraction, int steps) {
  constexpr double kRounding = 1e-9;
  return static_cast<int>(std::ceil(fraction * steps - kRounding));
}

}  // namespace

const WeightRange* RangeAtStep(absl::Span<const WeightRange> schedule, int step,
                               int steps) {
  for (const WeightRange& range : schedule) {
    if (step >= FirstStepFrom(range.from, steps) &&
        step < FirstStepFrom(range.to, steps)) {
      return &range;
    }
  }
  return nullptr;
}

}  // namespace graft
