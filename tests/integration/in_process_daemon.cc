#include "tests/integration/in_process_daemon.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <utility>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace graft {

InProcessDaemon::InProcessDaemon(
    const std::function<void(DaemonOptions&)>& change, OnLoad on_load)
    : new_engine_(std::make_unique<FakeEngine>()), engine_(new_engine_.get()) {
  DaemonOptions options;
  options.transport.listen = "127.0.0.1:0";
  options.engine.model_dir = model_dir_.path();
  options.adapter_dir = adapter_dir_.path();
  if (change != nullptr) change(options);
  EXPECT_THAT(ValidateDaemonOptions(options), IsOk());
  auto daemon = Daemon::Start(
      options,
      [this, on_load](
          const EngineOptions&) -> absl::StatusOr<std::unique_ptr<Engine>> {
        if (on_load != nullptr) {
          if (absl::Status status = on_load(); !status.ok()) return status;
        }
        return std::move(new_engine_);
      });
  EXPECT_THAT(daemon, IsOk());
  daemon_ = *std::move(daemon);
  address_ = daemon_->address();
  if (on_load == nullptr) {
    EXPECT_THAT(daemon_->WaitUntilServing(), IsOk());
  }
}

std::shared_ptr<grpc::Channel> InProcessDaemon::NewChannel() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // not shared
  return grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(),
                                   arguments);
}

std::string ReasonOf(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) return info.reason();
  }
  return "";
}

}  // namespace graft
