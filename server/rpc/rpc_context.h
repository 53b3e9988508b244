#ifndef GRAFT_SERVER_RPC_RPC_CONTEXT_H_
#define GRAFT_SERVER_RPC_RPC_CONTEXT_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/common/clock.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// What is known of one RPC, whatever it does.
struct RpcContext {
  std::string method;       // the bare name: "GenerateImage"
  std::string request_id;   // the client's, or one made here
  std::string traceparent;  // W3C trace context; empty if none or malformed
  std::string tenant = "default";
  std::string peer;      // as gRPC tells it
  std::string adapters;  // that the request names, for the log
  absl::Time start;      // on the server's Clock
  absl::Time deadline = absl::InfiniteFuture();  // the client's, on that Clock
};

// What is done around every RPC. The daemon builds one; all are set.
struct RpcHooks {
  // Sets who calls (context.tenant), or refuses: TOKEN_INVALID or
  // ROLE_NOT_ALLOWED. Comes before anything of the request is looked at.
  std::function<absl::Status(const grpc::CallbackServerContext& call,
                             RpcContext& context)>
      authenticate;
  // An RPC ended with `status` after `duration`.
  std::function<void(const RpcContext& context, const absl::Status& status,
                     absl::Duration duration)>
      on_finish;
  // A request that was admitted to GenerateImage is over, whoever listens.
  std::function<void(const absl::Status& status,
                     const GenerationSummary& summary)>
      on_generated;
};

// The value of an ASCII header that the client sent, empty if absent.
absl::string_view Header(const grpc::CallbackServerContext& call,
                         const char* name);

// Hooks for a server without authentication: all callers are one tenant, and
// each RPC is one line in the log.
RpcHooks DefaultRpcHooks();

// The wrapper round one RPC: who, since when, until when, and how it ended.
// Thread-compatible. Order of calls: Admit, then Finish once.
class RpcCall {
 public:
  // `hooks` and `clock` outlive the call; `call` is read here and in Admit.
  // An empty `request_id` is replaced by a new one.
  RpcCall(const RpcHooks* hooks, const Clock* clock,
          const grpc::CallbackServerContext& call, absl::string_view method,
          absl::string_view request_id);

  // Whether the RPC may go on: authentication, then the request id
  // (INVALID_FIELD unless at most 128 printable ASCII characters).
  absl::Status Admit(const grpc::CallbackServerContext& call);

  // The client's request id, for RPCs that hear of it later than of the call:
  // INVALID_FIELD as Admit; an empty one changes nothing.
  absl::Status SetRequestId(absl::string_view request_id);

  // Reports the end and returns what to send.
  grpc::Status Finish(const absl::Status& status);

  const RpcContext& context() const { return context_; }
  RpcContext& context() { return context_; }

 private:
  const RpcHooks* const hooks_;
  const Clock* const clock_;
  RpcContext context_;
};

// A random UUID (version 4).
std::string NewRequestId();

// `header` if it is a valid W3C traceparent (w3.org/TR/trace-context, version
// 00), else empty, as the specification asks.
std::string ParseTraceparent(absl::string_view header);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_RPC_CONTEXT_H_
