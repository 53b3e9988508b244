#ifndef GRAFT_SERVER_RPC_UNARY_CALL_H_
#define GRAFT_SERVER_RPC_UNARY_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/rpc_environment.h"

namespace graft {

// Ends a unary RPC, once, on any thread. With OK the response must be filled
// in.
using UnaryDone = std::function<void(const absl::Status&)>;

// What a unary RPC does once it is admitted and there is something to work
// with: quick, or handed over to an executor. Calls `done` now or later;
// request, response and `rpc` live until then.
using UnaryHandler = std::function<void(const Backend& backend,
                                        const RpcContext& rpc, UnaryDone done)>;

// Whether an RPC works while the server drains.
enum class WhileDraining { kRefuse, kAnswer };

// Starts a unary RPC inside the wrapper that all RPCs share, and returns the
// reactor for gRPC. Every method of a unary service is one call of this.
grpc::ServerUnaryReactor* StartUnaryCall(
    const RpcEnvironment& environment, grpc::CallbackServerContext* context,
    absl::string_view method, absl::string_view request_id,
    const UnaryHandler& handler,
    WhileDraining while_draining = WhileDraining::kRefuse);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_UNARY_CALL_H_
