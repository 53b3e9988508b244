// Fault 21: every method with every credential, through real gRPC.

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "graft/v1/adapter.pb.h"
#include "graft/v1/admin.pb.h"
#include "graft/v1/generation.pb.h"
#include "gtest/gtest.h"
#include "server/common/sha256.h"
#include "tests/integration/health_client.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

const char* const kRoles[] = {"generate", "adapters", "admin", "read"};

// Methods that need more than to be known to the server.
const std::map<std::string, std::string>& NeededRoles() {
  static const auto* const roles = new std::map<std::string, std::string>{
      {"GenerateImage", "generate"},  {"CancelGeneration", "generate"},
      {"LoadAdapter", "adapters"},    {"UploadAdapter", "adapters"},
      {"UnloadAdapter", "adapters"},  {"UpdateAdapter", "adapters"},
      {"VerifyBaseWeights", "admin"}, {"Drain", "admin"}};
  return *roles;
}

// All methods that we serve.
std::vector<const google::protobuf::MethodDescriptor*> Methods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const google::protobuf::FileDescriptor* const file :
       {v1::GenerateImageRequest::descriptor()->file(),
        v1::Adapter::descriptor()->file(),
        v1::ServerInfo::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        methods.push_back(file->service(i)->method(j));
      }
    }
  }
  return methods;
}

// The end of a call with an empty message; `token` may be empty.
grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel,
                  const google::protobuf::MethodDescriptor& method,
                  const std::string& token) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  const grpc::Slice no_bytes;
  const grpc::ByteBuffer request(&no_bytes, 1);
  grpc::ByteBuffer response;
  grpc::Status result;
  absl::Notification done;
  stub.UnaryCall(
      &context,
      absl::StrCat("/", method.service()->full_name(), "/", method.name()), {},
      &request, &response, [&](grpc::Status status) {
        result = std::move(status);
        done.Notify();
      });
  done.WaitForNotification();
  return result;
}

class CredentialsTest : public testing::Test {
 protected:
  // A token for each role, called as the role is.
  CredentialsTest()
      : daemon_([this](DaemonOptions& options) {
          std::string lines;
          for (const std::string role : kRoles) {
            absl::StrAppend(&lines, "studio:", role, ":",
                            Sha256Hex(role.data(), role.size()), "\n");
          }
          options.token_file = files_.Write("tokens", lines);
        }),
        channel_(daemon_.NewChannel()) {}

  const TempDir files_;
  InProcessDaemon daemon_;
  const std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(CredentialsTest, NobodyCallsAnythingWithoutAValidToken) {
  for (const auto* const method : Methods()) {
    for (const char* const token : {"", "guess", "generate "}) {
      const grpc::Status status = Call(channel_, *method, token);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED)
          << method->name() << " \"" << token << "\"";
      EXPECT_EQ(ReasonOf(status), "TOKEN_INVALID") << method->name();
    }
  }
}

TEST_F(CredentialsTest, EachMethodIsForItsRoleOnly) {
  for (const auto* const method : Methods()) {
    const auto needed = NeededRoles().find(method->name());
    for (const std::string role : kRoles) {
      const grpc::Status status = Call(channel_, *method, role);
      const bool allowed =
          needed == NeededRoles().end() || needed->second == role;
      EXPECT_EQ(ReasonOf(status) == "ROLE_NOT_ALLOWED", !allowed)
          << method->name() << " as " << role << ": " << status.error_code()
          << " " << status.error_message();
      EXPECT_NE(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
    }
  }
}

TEST_F(CredentialsTest, UnknownMethodIsUnimplementedForAll) {
  EXPECT_EQ(CallUnknownMethod(channel_).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace graft
