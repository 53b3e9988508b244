#ifndef GRAFT_TESTS_BENCH_LOAD_OUTCOME_H_
#define GRAFT_TESTS_BENCH_LOAD_OUTCOME_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "graft/v1/generation.pb.h"

namespace graft::load {

// What became of one request. Times are counted from the beginning of the run.
struct Outcome {
  std::string adapter;
  // When it was to be sent, when it was, and when its stream ended.
  absl::Duration scheduled;
  absl::Duration sent;
  absl::Duration ended;
  absl::Status status;  // with reason and retry delay (client_status.h)
  uint32_t images = 0;
  v1::GenerationTimings timings;

  // As its user saw it: a request that could not be sent in time has waited.
  absl::Duration latency() const { return ended - scheduled; }
};

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_OUTCOME_H_
