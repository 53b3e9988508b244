#ifndef GRAFT_TESTS_BENCH_LOAD_LOAD_RUNNER_H_
#define GRAFT_TESTS_BENCH_LOAD_LOAD_RUNNER_H_

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "graft/v1/generation.grpc.pb.h"
#include "tests/bench/load/arrivals.h"
#include "tests/bench/load/outcome.h"
#include "tests/bench/load/workload.h"

namespace graft::load {

// Sends requests to a server and notes what becomes of them. The calls are
// asynchronous on gRPC's own threads: next to nothing is computed here, as
// server and generator often share a machine. Use it once.
class LoadRunner {
 public:
  struct Options {
    std::string server = "127.0.0.1:50051";
    // A server bounds the streams of one connection; what is past that would
    // wait here.
    int connections = 32;
    // Of each request, from its scheduled time; infinite: none.
    absl::Duration deadline = absl::InfiniteDuration();
    // Bearer tokens, used in turn: the tenants. Empty: none.
    std::vector<std::string> tokens = {};
    // Cancel what has not ended when the time is over, instead of waiting for
    // it: of an overloaded server that would take as long again.
    bool abandon = false;
  };

  explicit LoadRunner(Options options);

  // Blocks until the server can be reached.
  absl::Status Connect(absl::Duration timeout);

  // Open loop: sends at the given times, whatever was answered by then, so that
  // a slow server meets the same arrivals as a fast one. The time is over after
  // `duration`. Returns when all requests have ended.
  std::vector<Outcome> RunOpenLoop(const Arrivals& arrivals,
                                   absl::Duration duration, Workload& workload);

  // Closed loop: `concurrency` clients, each sending its next request when the
  // last one has ended, until `duration` is over. Returns when all requests
  // have ended.
  std::vector<Outcome> RunClosedLoop(int concurrency, absl::Duration duration,
                                     Workload& workload);

 private:
  class Call;

  // Since the beginning.
  absl::Duration Now() const {
    return absl::FromChrono(std::chrono::steady_clock::now() - begin_);
  }

  void Send(absl::Duration scheduled, v1::GenerateImageRequest request)
      ABSL_LOCKS_EXCLUDED(mu_);
  // The last act of a call, which is gone afterwards.
  void OnEnd(Call* call, Outcome outcome) ABSL_LOCKS_EXCLUDED(mu_);
  void WaitUntilInFlightAtMost(size_t count) ABSL_LOCKS_EXCLUDED(mu_);
  // Lets the requests that are left end, or ends them.
  std::vector<Outcome> FinishRun() ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::GenerationService::Stub>> stubs_;
  std::chrono::steady_clock::time_point begin_;
  size_t sent_ = 0;

  absl::Mutex mu_;
  absl::flat_hash_set<Call*> in_flight_ ABSL_GUARDED_BY(mu_);
  std::vector<Outcome> outcomes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_LOAD_RUNNER_H_
