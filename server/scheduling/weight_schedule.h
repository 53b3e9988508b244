#ifndef GRAFT_SERVER_SCHEDULING_WEIGHT_SCHEDULE_H_
#define GRAFT_SERVER_SCHEDULING_WEIGHT_SCHEDULE_H_

#include <vector>

#include "absl/types/span.h"

namespace graft {

// How strongly an adapter is merged during one part of an image's steps.
// `from` and `to` are fractions of the steps, 0 <= from < to <= 1.
struct WeightRange {
  double from = 0;
  double to = 1;
  double weight = 1;
  double text_encoder_weight = 1;

  bool operator==(const WeightRange& other) const {
    return from == other.from && to == other.to && weight == other.weight &&
           text_encoder_weight == other.text_encoder_weight;
  }
};

// The range that step `step` (from 0) of `steps` belongs to: from <= step /
// steps < to. nullptr: none, so the adapter is not merged at this step. The
// borders are meant as decimals: 0.3 of 10 steps are 3 steps, whatever 0.3 is
// in binary. REQUIRES: the ranges are valid and do not overlap.
const WeightRange* RangeAtStep(absl::Span<const WeightRange> schedule, int step,
                               int steps);

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_WEIGHT_SCHEDULE_H_
