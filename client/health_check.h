#ifndef GRAFT_CLIENT_HEALTH_CHECK_H_
#define GRAFT_CLIENT_HEALTH_CHECK_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <memory>

namespace graft {

// Asks the server behind `channel` how it is as a whole (grpc.health.v1). OK
// with `serving` filled in, or why there was no answer. Blocks.
grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         grpc::ClientContext& context, bool& serving);

}  // namespace graft

#endif  // GRAFT_CLIENT_HEALTH_CHECK_H_
