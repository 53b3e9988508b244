#include "server/rpc/malformed_requests.h"

#include <google/protobuf/descriptor.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/common/error.h"
#include "server/rpc/grpc_status_util.h"

namespace graft {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

// "/graft.v1.AdminService/GetLoad", if there is such a method.
bool IsOurs(absl::string_view path) {
  if (!absl::ConsumePrefix(&path, "/graft.v1.")) return false;
  const std::string name =
      absl::StrReplaceAll(absl::StrCat("graft.v1.", path), {{"/", "."}});
  return google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(
             name) != nullptr;
}

// None of our methods answers so.
bool IsGrpcsOwn(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNIMPLEMENTED &&
         status.error_message().empty();
}

class MalformedRequestInterceptor final : public Interceptor {
 public:
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            InterceptionHookPoints::PRE_SEND_STATUS) &&
        IsGrpcsOwn(methods->GetSendStatus())) {
      methods->ModifySendStatus(ToGrpcStatus(InvalidField(
          "request",
          "the message is damaged, or a text in it is not UTF-8; send it "
          "again as graft/v1 describes it")));
    }
    methods->Proceed();
  }
};

class Factory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return IsOurs(info->method()) ? new MalformedRequestInterceptor : nullptr;
  }
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
MakeMalformedRequestInterceptors() {
  return std::make_unique<Factory>();
}

}  // namespace graft
