#ifndef GRAFT_SERVER_RPC_RPC_ENVIRONMENT_H_
#define GRAFT_SERVER_RPC_RPC_ENVIRONMENT_H_

#include <cstdint>
#include <functional>

#include "absl/time/time.h"
#include "server/common/clock.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/serving_state.h"

namespace graft {

// What every service needs. All set; all outlive the server.
struct RpcEnvironment {
  const RpcHooks* hooks = nullptr;
  const Clock* clock = nullptr;
  const ServingState* state = nullptr;
  // Stops admitting, for good, and says so in health. As often as one likes,
  // once `state` has a backend.
  std::function<void()> drain;
  absl::Duration write_timeout = absl::Seconds(30);  // see TransportOptions
  // Of finished requests' images that are kept, for clients that send the same
  // request again.
  int64_t max_finished_bytes = int64_t{64} << 20;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_RPC_ENVIRONMENT_H_
