#ifndef GRAFT_SERVER_RPC_GENERATE_REACTOR_H_
#define GRAFT_SERVER_RPC_GENERATE_REACTOR_H_

#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "graft/v1/generation.pb.h"
#include "server/rpc/open_streams.h"
#include "server/rpc/reply_buffer.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/rpc_environment.h"
#include "server/rpc/shared_generation.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// The server's end of one GenerateImage stream. Results come in from a
// SharedGeneration from the scheduler's threads and leave one write at a time;
// the stream is finished once, after the last write or at once with an error. A
// client that goes away, or does not read for write_timeout, leaves the
// generation, and the stream ends when that has said so.
//
// NextLocked() alone decides what happens next, under the lock; Act() does it
// after the lock is released. As soon as that lock is released another thread
// may finish the stream, so whoever comes here holds the reactor until he
// leaves: gRPC until OnDone, the generation's observer, and the timer.
//
// Order of calls: Create, then either Fail or Listen. Thread-safe.
class GenerateReactor
    : public grpc::ServerWriteReactor<v1::GenerateImageResponse> {
 public:
  // `environment`, `context` and `streams`, where it counts as open, outlive
  // the stream.
  static std::shared_ptr<GenerateReactor> Create(
      const RpcEnvironment& environment, grpc::CallbackServerContext* context,
      const v1::GenerateImageRequest& request, OpenStreams& streams);

  RpcCall& call() { return call_; }

  // Streams what `generation` reports; `place` is one of it. REQUIRES: called
  // at most once.
  void Listen(const std::shared_ptr<SharedGeneration>& generation,
              SharedGeneration::Place place) ABSL_LOCKS_EXCLUDED(mu_);

  // Ends the stream with an error, before any result.
  void Fail(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  // gRPC calls these.
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnCancel() override;
  void OnDone() override;

 private:
  class Observer;
  // What to do when the lock is released.
  struct Next {
    enum Kind { kNothing, kWrite, kFinish };
    Kind kind = kNothing;
    absl::Status ending = {};  // of kFinish
  };
  using SteadyTime = std::chrono::steady_clock::time_point;

  GenerateReactor(const RpcEnvironment& environment,
                  grpc::CallbackServerContext* context,
                  const v1::GenerateImageRequest& request,
                  OpenStreams& streams);

  // The only chooser.
  Next NextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Act(const Next& next) ABSL_LOCKS_EXCLUDED(mu_);

  // Changes the buffer, then writes if that is possible.
  template <typename Change>
  void Buffer(const Change& change) ABSL_LOCKS_EXCLUDED(mu_);

  // The client is gone.
  void Leave() ABSL_LOCKS_EXCLUDED(mu_);

  // The request is over.
  void End(const absl::Status& status, const GenerationSummary& summary)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Has OnTimer called when a write that began at `began` has taken too long;
  // the reactor stays until OnTimer returns.
  void StartTimer(SteadyTime began) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnTimer(bool expired) ABSL_LOCKS_EXCLUDED(mu_);

  const absl::Duration write_timeout_;
  grpc::CallbackServerContext* const context_;
  OpenStreams& streams_;
  RpcCall call_;
  std::shared_ptr<GenerateReactor> self_;  // until OnDone

  // Of the write in flight: nobody else touches it meanwhile.
  v1::GenerateImageResponse message_;

  absl::Mutex mu_;
  std::shared_ptr<SharedGeneration> generation_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Observer> observer_ ABSL_GUARDED_BY(mu_);  // of generation_
  // To the end, which a client that reads slowly puts off.
  SharedGeneration::Place place_ ABSL_GUARDED_BY(mu_);
  bool left_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<ReplyBuffer> buffer_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  SteadyTime write_began_ ABSL_GUARDED_BY(mu_);
  // One timer for many writes: it looks whether that of the moment is too old,
  // and goes on. It is stopped, and has said so (timer_runs_), before Finish:
  // afterwards the context may be gone. The reactor outlives its callback.
  std::unique_ptr<grpc::Alarm> timer_ ABSL_GUARDED_BY(mu_);
  bool timer_runs_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;  // a write failed: no more writes
  std::optional<absl::Status> ending_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_GENERATE_REACTOR_H_
