#ifndef GRAFT_TESTS_CHAOS_GENERATE_CALL_H_
#define GRAFT_TESTS_CHAOS_GENERATE_CALL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "graft/v1/generation.grpc.pb.h"

namespace graft {

// What a client saw of one GenerateImage for one image.
struct GenerateAnswer {
  absl::Status status;
  bool accepted = false;  // there was an event
  std::string image;      // the PNG file
  v1::Finished finished;
};

// A connection that no other client uses.
std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address);

// Makes the call, under `context`, which `on_event` may cancel.
GenerateAnswer CallGenerate(v1::GenerationService::Stub& stub,
                            const v1::GenerateImageRequest& request,
                            grpc::ClientContext& context,
                            const std::function<void()>& on_event);

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_GENERATE_CALL_H_
