#ifndef GRAFT_SERVER_RPC_DRAIN_REACTOR_H_
#define GRAFT_SERVER_RPC_DRAIN_REACTOR_H_

#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "graft/v1/admin.pb.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/rpc_environment.h"

namespace graft {

// The server's end of one Drain stream: stops admitting, then looks from time
// to time how many accepted requests are left, and tells it when that has
// changed.
//
// Either a write or the timer is under way, never both, and the end of one
// starts the next; so no lock is needed. Deletes itself when gRPC is done with
// it.
class DrainReactor : public grpc::ServerWriteReactor<v1::DrainResponse> {
 public:
  // Begins, or refuses. `environment` and `context` outlive the stream.
  DrainReactor(const RpcEnvironment& environment,
               grpc::CallbackServerContext* context,
               const v1::DrainRequest& request);

  // gRPC calls these.
  void OnWriteDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  absl::Status Admit(const RpcEnvironment& environment);

  // Tells what is left if that is news, else looks again later; or ends the
  // stream.
  void Look();
  void LookLater();

  void End(const absl::Status& status);

  grpc::CallbackServerContext* const context_;
  const Clock* const clock_;
  const absl::Time give_up_;
  RpcCall call_;
  const Backend* backend_ = nullptr;  // set once the call is admitted
  std::optional<uint32_t> told_;
  v1::DrainResponse message_;
  std::unique_ptr<grpc::Alarm> timer_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_DRAIN_REACTOR_H_
