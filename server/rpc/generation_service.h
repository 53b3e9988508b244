#ifndef GRAFT_SERVER_RPC_GENERATION_SERVICE_H_
#define GRAFT_SERVER_RPC_GENERATION_SERVICE_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "graft/v1/generation.grpc.pb.h"
#include "server/rpc/rpc_environment.h"

namespace graft {

// graft.v1.GenerationService: validates, pins the adapters, submits. Holds no
// state beyond one call. Thread-safe.
class GenerationServiceImpl final
    : public v1::GenerationService::CallbackService {
 public:
  // What `environment` points to outlives the service.
  explicit GenerationServiceImpl(const RpcEnvironment& environment)
      : environment_(environment) {}

  grpc::ServerWriteReactor<v1::GenerateImageResponse>* GenerateImage(
      grpc::CallbackServerContext* context,
      const v1::GenerateImageRequest* request) override;

 private:
  const RpcEnvironment environment_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_GENERATION_SERVICE_H_
