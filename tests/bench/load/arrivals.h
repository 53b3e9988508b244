#ifndef GRAFT_TESTS_BENCH_LOAD_ARRIVALS_H_
#define GRAFT_TESTS_BENCH_LOAD_ARRIVALS_H_

#include <istream>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/bench/load/random_source.h"

namespace graft::load {

// When requests are sent, counted from the beginning of the run; ascending.
using Arrivals = std::vector<absl::Duration>;

// As of many clients that know nothing of each other: `rate` a second, the gaps
// exponentially distributed, all before `duration`.
// REQUIRES: rate > 0.
Arrivals PoissonArrivals(double rate, absl::Duration duration,
                         RandomSource& random);

// One after each of `gaps`, and from the first again when they are used up, all
// before `duration`.
// REQUIRES: the gaps' sum is positive.
Arrivals RecordedArrivals(const std::vector<absl::Duration>& gaps,
                          absl::Duration duration);

// `gaps` so stretched or compressed that there are `rate` arrivals a second.
// REQUIRES: the gaps' sum and `rate` are positive.
std::vector<absl::Duration> ScaleGaps(std::vector<absl::Duration> gaps,
                                      double rate);

// Seconds, one number a line; what begins with '#' is a comment. An error
// unless every gap is a finite number that is not negative and their sum is
// positive.
absl::StatusOr<std::vector<absl::Duration>> ReadGaps(std::istream& text);

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_ARRIVALS_H_
