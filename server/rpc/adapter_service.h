#ifndef GRAFT_SERVER_RPC_ADAPTER_SERVICE_H_
#define GRAFT_SERVER_RPC_ADAPTER_SERVICE_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>

#include "graft/v1/adapter.grpc.pb.h"
#include "server/rpc/rpc_environment.h"

namespace graft {

// graft.v1.AdapterService. Reading files is left to the backend's executor, so
// gRPC's threads never wait for a disk. Thread-safe.
class AdapterServiceImpl final : public v1::AdapterService::CallbackService {
 public:
  // Loads that may wait or run; past them QUEUE_FULL.
  static constexpr int kMaxPendingLoads = 64;

  // Uploads that may run; past them QUEUE_FULL.
  static constexpr int kMaxUploads = 8;

  // What `environment` points to outlives the service.
  explicit AdapterServiceImpl(const RpcEnvironment& environment)
      : environment_(environment) {}

  grpc::ServerUnaryReactor* LoadAdapter(
      grpc::CallbackServerContext* context,
      const v1::LoadAdapterRequest* request,
      v1::LoadAdapterResponse* response) override;
  grpc::ServerReadReactor<v1::UploadAdapterRequest>* UploadAdapter(
      grpc::CallbackServerContext* context,
      v1::LoadAdapterResponse* response) override;
  grpc::ServerUnaryReactor* UnloadAdapter(
      grpc::CallbackServerContext* context,
      const v1::UnloadAdapterRequest* request,
      v1::UnloadAdapterResponse* response) override;
  grpc::ServerUnaryReactor* UpdateAdapter(
      grpc::CallbackServerContext* context,
      const v1::UpdateAdapterRequest* request, v1::Adapter* response) override;
  grpc::ServerUnaryReactor* GetAdapter(grpc::CallbackServerContext* context,
                                       const v1::GetAdapterRequest* request,
                                       v1::Adapter* response) override;
  grpc::ServerUnaryReactor* ListAdapters(
      grpc::CallbackServerContext* context,
      const v1::ListAdaptersRequest* request,
      v1::ListAdaptersResponse* response) override;

 private:
  const RpcEnvironment environment_;
  std::atomic<int> pending_loads_{0};
  std::atomic<int> uploads_{0};
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_ADAPTER_SERVICE_H_
