#include "tests/chaos/generate_call.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "client/client_status.h"

namespace graft {

std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // every call is counted
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

GenerateAnswer CallGenerate(v1::GenerationService::Stub& stub,
                            const v1::GenerateImageRequest& request,
                            grpc::ClientContext& context,
                            const std::function<void()>& on_event) {
  GenerateAnswer answer;
  const auto reader = stub.GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  while (reader->Read(&event)) {
    answer.accepted = true;
    if (event.has_image()) answer.image += event.image().data();
    if (event.has_finished()) answer.finished = event.finished();
    on_event();
  }
  answer.status = FromGrpcStatus(reader->Finish());
  return answer;
}

}  // namespace graft
