#include "server/rpc/unary_call.h"

#include "absl/status/statusor.h"

namespace graft {
namespace {

// Deletes itself when gRPC is done with it.
class UnaryReactor : public grpc::ServerUnaryReactor {
 public:
  explicit UnaryReactor(RpcCall call) : call_(std::move(call)) {}

  void End(const absl::Status& status) { Finish(call_.Finish(status)); }
  RpcCall& call() { return call_; }

  void OnDone() override { delete this; }

 private:
  RpcCall call_;
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryCall(const RpcEnvironment& environment,
                                         grpc::CallbackServerContext* context,
                                         absl::string_view method,
                                         absl::string_view request_id,
                                         const UnaryHandler& handler,
                                         WhileDraining while_draining) {
  auto* const reactor = new UnaryReactor(RpcCall(
      environment.hooks, environment.clock, *context, method, request_id));
  if (const absl::Status admitted = reactor->call().Admit(*context);
      !admitted.ok()) {
    reactor->End(admitted);
    return reactor;
  }
  const absl::StatusOr<const Backend*> backend =
      while_draining == WhileDraining::kAnswer
          ? environment.state->GetWhileDraining()
          : environment.state->Get();
  if (!backend.ok()) {
    reactor->End(backend.status());
    return reactor;
  }
  handler(**backend, reactor->call().context(),
          [reactor](const absl::Status& status) { reactor->End(status); });
  return reactor;
}

}  // namespace graft
