#include "server/rpc/admin_service.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/rpc/drain_reactor.h"
#include "server/rpc/proto_conversions.h"
#include "server/rpc/unary_call.h"

namespace graft {

grpc::ServerUnaryReactor* AdminServiceImpl::GetServerInfo(
    grpc::CallbackServerContext* context, const v1::GetServerInfoRequest*,
    v1::ServerInfo* response) {
  return StartUnaryCall(
      environment_, context, "GetServerInfo", /*request_id=*/"",
      [response](const Backend& backend, const RpcContext&,
                 const UnaryDone& done) {
        *response = ToServerInfo(backend);
        done(absl::OkStatus());
      },
      WhileDraining::kAnswer);
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetLoad(
    grpc::CallbackServerContext* context, const v1::GetLoadRequest*,
    v1::ServerLoad* response) {
  return StartUnaryCall(
      environment_, context, "GetLoad", /*request_id=*/"",
      [this, response](const Backend& backend, const RpcContext&,
                       const UnaryDone& done) {
        *response = ToServerLoad(backend, environment_.state->draining());
        done(absl::OkStatus());
      },
      WhileDraining::kAnswer);
}

grpc::ServerWriteReactor<v1::DrainResponse>* AdminServiceImpl::Drain(
    grpc::CallbackServerContext* context, const v1::DrainRequest* request) {
  return new DrainReactor(environment_, context, *request);
}

grpc::ServerUnaryReactor* AdminServiceImpl::VerifyBaseWeights(
    grpc::CallbackServerContext* context,
    const v1::VerifyBaseWeightsRequest* request,
    v1::VerifyBaseWeightsResponse* response) {
  return StartUnaryCall(
      environment_, context, "VerifyBaseWeights", request->request_id(),
      [request, response](const Backend& backend, const RpcContext&,
                          UnaryDone done) {
        backend.scheduler->VerifyBaseWeights(
            request->repair(), [response, done = std::move(done)](
                                   const absl::StatusOr<VerifyReport>& report) {
              if (report.ok()) *response = ToProto(*report);
              done(report.status());
            });
      },
      WhileDraining::kAnswer);
}

}  // namespace graft
