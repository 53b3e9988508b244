#ifndef GRAFT_SERVER_RPC_GENERATION_SERVICE_H_
#define GRAFT_SERVER_RPC_GENERATION_SERVICE_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "graft/v1/generation.grpc.pb.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/generation_registry.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/rpc_environment.h"
#include "server/rpc/serving_state.h"
#include "server/rpc/shared_generation.h"

namespace graft {

// graft.v1.GenerationService: validates and submits. Knows the
// requests by their ids and nothing else beyond one call. Thread-safe.
class GenerationServiceImpl final
    : public v1::GenerationService::CallbackService {
 public:
  // What `environment` points to outlives the service. REQUIRES: no accepted
  // request is left when the service is destroyed.
  explicit GenerationServiceImpl(const RpcEnvironment& environment)
      : environment_(environment),
        registry_(environment.hooks->on_generated,
                  environment.max_finished_bytes) {}

  grpc::ServerWriteReactor<v1::GenerateImageResponse>* GenerateImage(
      grpc::CallbackServerContext* context,
      const v1::GenerateImageRequest* request) override;
  // Waits until every stream of GenerateImage has ended; false when `timeout`
  // is over first.
  bool WaitUntilNoStream(absl::Duration timeout) {
    return streams_.WaitUntilNone(timeout);
  }

  grpc::ServerUnaryReactor* CancelGeneration(
      grpc::CallbackServerContext* context,
      const v1::CancelGenerationRequest* request,
      v1::CancelGenerationResponse* response) override;

 private:
  // Validates `request`, and lets `reactor` listen to the generation that it
  // begins or joins.
  absl::Status Start(const grpc::CallbackServerContext& context,
                     const v1::GenerateImageRequest& request,
                     GenerateReactor& reactor);

  const RpcEnvironment environment_;
  OpenStreams streams_;
  GenerationRegistry registry_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_GENERATION_SERVICE_H_
