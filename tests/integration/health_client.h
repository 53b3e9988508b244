#ifndef GRAFT_TESTS_INTEGRATION_HEALTH_CLIENT_H_
#define GRAFT_TESTS_INTEGRATION_HEALTH_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>
#include <vector>

// Calls the standard services of gRPC without their generated code, which no
// package ships: the messages are a string or a number each.
namespace graft {

// grpc.health.v1.HealthCheckResponse.ServingStatus; kUnknown stands for a
// service that health does not know, kFailed for a call that failed otherwise.
enum class Health { kFailed = -1, kUnknown = 0, kServing = 1, kNotServing = 2 };

Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                   const std::string& service);

// Whether grpc.reflection.v1alpha.ServerReflection lists the services.
bool HasReflection(const std::shared_ptr<grpc::Channel>& channel);

// Streams of reflection that have been answered once, or refused, and stay
// open.
class OpenReflectionStreams {
 public:
  OpenReflectionStreams(const std::shared_ptr<grpc::Channel>& channel,
                        int count);
  ~OpenReflectionStreams();

 private:
  struct Stream;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<Stream>> streams_;
};

// What a method that nobody has answers.
grpc::Status CallUnknownMethod(const std::shared_ptr<grpc::Channel>& channel);

}  // namespace graft

#endif  // GRAFT_TESTS_INTEGRATION_HEALTH_CLIENT_H_
