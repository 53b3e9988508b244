#include "server/rpc/admin_service.h"

#include "absl/status/status.h"
#include "server/rpc/proto_conversions.h"
#include "server/rpc/unary_call.h"

namespace graft {

grpc::ServerUnaryReactor* AdminServiceImpl::GetServerInfo(
    grpc::CallbackServerContext* context, const v1::GetServerInfoRequest*,
    v1::ServerInfo* response) {
  return StartUnaryCall(
      environment_, context, "GetServerInfo", /*request_id=*/"",
      [response](const Backend& backend, const UnaryDone& done) {
        *response = ToServerInfo(backend);
        done(absl::OkStatus());
      });
}

}  // namespace graft
