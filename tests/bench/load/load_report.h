#ifndef GRAFT_TESTS_BENCH_LOAD_LOAD_REPORT_H_
#define GRAFT_TESTS_BENCH_LOAD_LOAD_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/bench/load/outcome.h"

namespace graft::load {

// The part of a run that counts: [from, to).
struct Window {
  absl::Duration from;
  absl::Duration to;
};

// The smallest of `values` that at least `percent` % of them do not exceed; 0
// of none.
double Percentile(std::vector<double> values, double percent);

// The figures of a run. Rates count what was to be sent, or ended, within the
// window; times and answers those of the requests that were to be sent in it.
//
//   offered_per_s  served_per_s  images_per_s
//   images_total   whole images that came, in the window or not
//   answers        requests by "CODE REASON"
//   adapters       how many different ones were asked for
//   latency_ms     of served requests: p50, p90, p99, max, as are all times
//   late_ms        how late requests were sent; much is the generator's fault
//   stages_ms      of served requests, as the server reported them
//   outside_ms     of served requests: from sending to the end, less the stages
//   refused        of the UNAVAILABLE: requests, with_retry_delay, answer_ms
nlohmann::ordered_json Summarize(const std::vector<Outcome>& outcomes,
                                 const Window& window);

// The same for people.
std::string ToTable(const nlohmann::ordered_json& summary);

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_LOAD_REPORT_H_
