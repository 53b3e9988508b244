#include "tests/integration/health_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include "absl/synchronization/notification.h"

namespace graft {
namespace {

constexpr char kReflection[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string ToBytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

// A call with one request and one response, on any method.
grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel,
                  const std::string& method, const std::string& request,
                  std::string& response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  const grpc::ByteBuffer request_buffer = ToBuffer(request);
  grpc::ByteBuffer response_buffer;
  grpc::Status result;
  absl::Notification done;
  stub.UnaryCall(&context, method, {}, &request_buffer, &response_buffer,
                 [&](grpc::Status status) {
                   result = std::move(status);
                   done.Notify();
                 });
  done.WaitForNotification();
  response = ToBytes(response_buffer);
  return result;
}

// A message whose field `number` is `text`.
std::string StringField(int number, const std::string& text) {
  return std::string{static_cast<char>(number << 3 | 2),
                     static_cast<char>(text.size())} +
         text;
}

}  // namespace

Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                   const std::string& service) {
  std::string response;
  const grpc::Status status = Call(channel, "/grpc.health.v1.Health/Check",
                                   StringField(1, service), response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    return Health::kUnknown;
  }
  // Field 1, a varint.
  if (!status.ok() || response.size() != 2) return Health::kFailed;
  return static_cast<Health>(response[1]);
}

struct OpenReflectionStreams::Stream {
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call;
  grpc::ByteBuffer response;
};

OpenReflectionStreams::OpenReflectionStreams(
    const std::shared_ptr<grpc::Channel>& channel, int count) {
  grpc::GenericStub stub(channel);
  void* tag = nullptr;
  bool ok = false;
  for (int i = 0; i < count; ++i) {
    Stream& stream = *streams_.emplace_back(std::make_unique<Stream>());
    stream.call = stub.PrepareCall(&stream.context, kReflection, &queue_);
    stream.call->StartCall(nullptr);
    queue_.Next(&tag, &ok);
    stream.call->Write(ToBuffer(StringField(7, "")), nullptr);
    queue_.Next(&tag, &ok);
    stream.call->Read(&stream.response, nullptr);
    queue_.Next(&tag, &ok);
  }
}

OpenReflectionStreams::~OpenReflectionStreams() {
  void* tag = nullptr;
  bool ok = false;
  for (const auto& stream : streams_) {
    stream->context.TryCancel();
    grpc::Status status;
    stream->call->Finish(&status, nullptr);
    queue_.Next(&tag, &ok);
  }
  queue_.Shutdown();
  while (queue_.Next(&tag, &ok)) continue;
}

bool HasReflection(const std::shared_ptr<grpc::Channel>& channel) {
  std::string response;
  // ServerReflectionRequest.list_services; a stream of one request.
  const grpc::Status status =
      Call(channel, kReflection, StringField(7, ""), response);
  return status.ok() &&
         response.find("graft.v1.GenerationService") != std::string::npos;
}

grpc::Status CallUnknownMethod(const std::shared_ptr<grpc::Channel>& channel) {
  std::string response;
  return Call(channel, "/graft.v1.AdminService/LaunchMissiles", "", response);
}

}  // namespace graft
