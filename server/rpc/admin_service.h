#ifndef GRAFT_SERVER_RPC_ADMIN_SERVICE_H_
#define GRAFT_SERVER_RPC_ADMIN_SERVICE_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "graft/v1/admin.grpc.pb.h"
#include "server/rpc/rpc_environment.h"

namespace graft {

// graft.v1.AdminService. Thread-safe.
class AdminServiceImpl final : public v1::AdminService::CallbackService {
 public:
  // What `environment` points to outlives the service.
  explicit AdminServiceImpl(const RpcEnvironment& environment)
      : environment_(environment) {}

  grpc::ServerUnaryReactor* GetServerInfo(
      grpc::CallbackServerContext* context,
      const v1::GetServerInfoRequest* request,
      v1::ServerInfo* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const v1::GetLoadRequest* request,
                                    v1::ServerLoad* response) override;
  grpc::ServerWriteReactor<v1::DrainResponse>* Drain(
      grpc::CallbackServerContext* context,
      const v1::DrainRequest* request) override;
  grpc::ServerUnaryReactor* VerifyBaseWeights(
      grpc::CallbackServerContext* context,
      const v1::VerifyBaseWeightsRequest* request,
      v1::VerifyBaseWeightsResponse* response) override;

 private:
  const RpcEnvironment environment_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_ADMIN_SERVICE_H_
