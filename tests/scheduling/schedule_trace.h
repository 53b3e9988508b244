#ifndef GRAFT_TESTS_SCHEDULING_SCHEDULE_TRACE_H_
#define GRAFT_TESTS_SCHEDULING_SCHEDULE_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// One request of a trace. Times are seconds.
struct SimulatedRequest {
  double arrival = 0;
  int adapter = 0;
  int steps = 30;
  int images = 1;
  int64_t pixels = 1024 * 1024;
  std::string tenant = "default";
  Priority priority = Priority::kInteractive;
};
using Trace = std::vector<SimulatedRequest>;  // in order of arrival

// Equal requests at random times.
struct TraceOptions {
  double per_second = 1;  // on average: Poisson arrivals
  int requests = 6000;
  int adapters = 200;  // adapter k with a share proportional to 1 / (k + 1)
  int tenants = 1;     // likewise
  int64_t pixels = 1024 * 1024;
  uint64_t seed = 1;
};
Trace GenerateTrace(const TraceOptions& options);

// Reads a recorded trace: a line for each request, "arrival adapter [steps
// [images [pixels [tenant [interactive|batch]]]]]", ordered by arrival; empty
// lines and lines that begin with # are skipped. INVALID_ARGUMENT names the
// line.
absl::StatusOr<Trace> ParseTrace(const std::string& text);

}  // namespace graft

#endif  // GRAFT_TESTS_SCHEDULING_SCHEDULE_TRACE_H_
