// Start, health, logs, drain.

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "graft/v1/admin.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "tests/integration/health_client.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/log_capture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::Contains;
using testing::HasSubstr;

const char* const kServices[] = {"", "graft.v1.GenerationService",
                                 "graft.v1.AdapterService",
                                 "graft.v1.AdminService"};

// Of this process.
size_t CountThreads() {
  using Iterator = std::filesystem::directory_iterator;
  return static_cast<size_t>(
      std::distance(Iterator("/proc/self/task"), Iterator()));
}

grpc::Status GetServerInfo(const std::shared_ptr<grpc::Channel>& channel) {
  v1::ServerInfo info;
  grpc::ClientContext context;
  return v1::AdminService::NewStub(channel)->GetServerInfo(
      &context, v1::GetServerInfoRequest(), &info);
}

// The reason for which a load of a file that is not there is refused.
std::string LoadNothing(const std::shared_ptr<grpc::Channel>& channel) {
  v1::LoadAdapterRequest request;
  request.set_path("nothing.safetensors");
  v1::LoadAdapterResponse response;
  grpc::ClientContext context;
  return ReasonOf(v1::AdapterService::NewStub(channel)->LoadAdapter(
      &context, request, &response));
}

v1::GenerateImageRequest Request() {
  v1::GenerateImageRequest request;
  request.set_steps(2);
  return request;
}

TEST(LifecycleTest, PortIsOpenWhileTheBaseLoads) {
  absl::Notification may_load;
  InProcessDaemon daemon(nullptr, [&may_load] {
    may_load.WaitForNotification();
    return absl::OkStatus();
  });
  const auto channel = daemon.NewChannel();
  const grpc::Status starting = GetServerInfo(channel);
  EXPECT_EQ(starting.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(starting), "STARTING");
  EXPECT_THAT(starting.error_details(), HasSubstr("RetryInfo"));
  for (const char* const service : kServices) {
    EXPECT_EQ(CheckHealth(channel, service), Health::kNotServing) << service;
  }
  may_load.Notify();
  EXPECT_THAT(daemon.daemon().WaitUntilServing(), IsOk());
  EXPECT_TRUE(GetServerInfo(channel).ok());
  for (const char* const service : kServices) {
    EXPECT_EQ(CheckHealth(channel, service), Health::kServing) << service;
  }
  EXPECT_EQ(CheckHealth(channel, "graft.v1.Nothing"), Health::kUnknown);
}

TEST(LifecycleTest, BaseThatCannotBeLoadedIsTold) {
  InProcessDaemon daemon(nullptr, [] {
    return Error(ErrorReason::kModelUnsupported, "unet/config.json: no");
  });
  EXPECT_THAT(daemon.daemon().WaitUntilServing(),
              HasReason(ErrorReason::kModelUnsupported));
}

TEST(LifecycleTest, StopWhileTheBaseLoads) {
  absl::Notification may_load;
  InProcessDaemon daemon(nullptr, [&may_load] {
    may_load.WaitForNotification();
    return absl::OkStatus();
  });
  daemon.daemon().RequestStop();
  EXPECT_THAT(daemon.daemon().WaitUntilServing(),
              HasReason(ErrorReason::kDraining));
  may_load.Notify();
  daemon.Stop();
}

TEST(LifecycleTest, TakenPortIsAnError) {
  InProcessDaemon first;
  DaemonOptions options;
  options.transport.listen = first.address();
  EXPECT_THAT(Daemon::Start(options,
                            [](const EngineOptions&) {
                              return absl::UnimplementedError("not reached");
                            }),
              HasReason(ErrorReason::kInvalidField, HasSubstr("in use")));
}

TEST(LifecycleTest, ReflectionIsOn) {
  InProcessDaemon daemon;
  EXPECT_TRUE(HasReflection(daemon.NewChannel()));
}

// Reflection is gRPC's own, waits in a thread for each open stream, and asks
// for no token.
TEST(LifecycleTest, ReflectionStreamsDoNotTakeAThreadEach) {
  InProcessDaemon daemon;
  const auto channel = daemon.NewChannel();
  ASSERT_TRUE(HasReflection(channel));
  const size_t before = CountThreads();
  OpenReflectionStreams streams(channel, 64);
  EXPECT_LT(CountThreads(), before + 20);
  EXPECT_EQ(GetServerInfo(channel).error_code(), grpc::StatusCode::OK);
}

TEST(LifecycleTest, UnknownMethodIsUnimplemented) {
  InProcessDaemon daemon;
  EXPECT_EQ(CallUnknownMethod(daemon.NewChannel()).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

// A client that reads slowly gets all of its images, though the server ends
// meanwhile and has no other work.
TEST(LifecycleTest, ImagesAreReadToTheirEndBeforeTheServerEnds) {
  InProcessDaemon daemon([](DaemonOptions& options) {
    options.transport.last_words = absl::ZeroDuration();
  });
  const auto channel = daemon.NewChannel();
  const auto stub = v1::GenerationService::NewStub(channel);
  v1::GenerateImageRequest request;
  request.set_width(2048);
  request.set_height(2048);
  request.set_steps(1);
  request.set_count(8);
  grpc::ClientContext context;
  const auto reader = stub->GenerateImage(&context, request);
  v1::GenerateImageResponse response;
  ASSERT_TRUE(reader->Read(&response));
  // Until all is drawn and encoded: more than gRPC holds for the client.
  grpc::ClientContext drain_context;
  const auto drain = v1::AdminService::NewStub(channel)->Drain(
      &drain_context, v1::DrainRequest());
  v1::DrainResponse left;
  while (drain->Read(&left)) continue;
  ASSERT_TRUE(drain->Finish().ok());
  absl::Notification stopped;
  std::thread stop([&] {
    daemon.Stop();
    stopped.Notify();
  });
  EXPECT_FALSE(stopped.WaitForNotificationWithTimeout(absl::Milliseconds(300)));
  int64_t bytes = 0;
  bool finished = false;
  while (reader->Read(&response)) {
    bytes += static_cast<int64_t>(response.image().data().size());
    finished = response.has_finished();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(finished);
  EXPECT_GT(bytes, 1 << 20);
  stop.join();
}

// Fault 23: what was accepted finishes, what comes later is refused.
TEST(LifecycleTest, DrainFinishesWhatWasAccepted) {
  InProcessDaemon daemon;
  const auto channel = daemon.NewChannel();
  const auto stub = v1::GenerationService::NewStub(channel);
  daemon.engine().Block(Call::kStep);
  grpc::ClientContext context;
  const auto reader = stub->GenerateImage(&context, Request());
  ASSERT_TRUE(daemon.engine().WaitUntilBlocked(Call::kStep));

  std::thread stop([&daemon] { daemon.Stop(); });
  while (LoadNothing(channel) != "DRAINING") continue;
  while (CheckHealth(channel, "") == Health::kServing) continue;

  daemon.engine().Unblock(Call::kStep);
  v1::GenerateImageResponse event;
  bool finished = false;
  while (reader->Read(&event)) finished = finished || event.has_finished();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(finished);
  stop.join();
}

TEST(LifecycleTest, DrainCancelsWhatDoesNotFinishInTime) {
  InProcessDaemon daemon([](DaemonOptions& options) {
    options.exit_timeout = absl::ZeroDuration();
  });
  const auto stub = v1::GenerationService::NewStub(daemon.NewChannel());
  daemon.engine().Block(Call::kStep);
  grpc::ClientContext context;
  const auto running = stub->GenerateImage(&context, Request());
  ASSERT_TRUE(daemon.engine().WaitUntilBlocked(Call::kStep));
  grpc::ClientContext waiting_context;
  const auto waiting = stub->GenerateImage(&waiting_context, Request());
  v1::GenerateImageResponse event;
  ASSERT_TRUE(waiting->Read(&event));

  FakeEngine& engine = daemon.engine();
  std::thread stop([&daemon] { daemon.Stop(); });
  while (waiting->Read(&event)) continue;
  const grpc::Status status = waiting->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(ReasonOf(status), "ADMIN_CANCELLED");
  engine.Unblock(Call::kStep);
  while (running->Read(&event)) continue;
  EXPECT_EQ(ReasonOf(running->Finish()), "ADMIN_CANCELLED");
  stop.join();
}

// Fault 14: a client that is there but does not read would else keep its images
// in memory for ever.
TEST(LifecycleTest, StoppedReaderIsCutOff) {
  LogCapture log;
  InProcessDaemon daemon([](DaemonOptions& options) {
    options.transport.write_timeout = absl::Milliseconds(50);
  });
  grpc::ChannelArguments small_window;
  small_window.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  small_window.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  const auto stub = v1::GenerationService::NewStub(grpc::CreateCustomChannel(
      daemon.address(), grpc::InsecureChannelCredentials(), small_window));
  v1::GenerateImageRequest request = Request();
  request.set_width(2048);
  request.set_height(2048);
  request.set_count(4);
  grpc::ClientContext context;
  const auto reader = stub->GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_THAT(log.Await("method=GenerateImage"),
              HasSubstr("reason=CLIENT_CANCELLED"));
  while (reader->Read(&event)) continue;
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(LifecycleTest, EachRpcIsOneLineWithItsTraceAndOutcome) {
  LogCapture log;
  InProcessDaemon daemon;
  const auto stub = v1::GenerationService::NewStub(daemon.NewChannel());
  const std::string trace =
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  grpc::ClientContext context;
  context.AddMetadata("traceparent", trace);
  v1::GenerateImageRequest request = Request();
  request.set_request_id("find me");
  request.set_prompt("a secret");
  request.add_adapters()->set_name("nobody");
  const auto reader = stub->GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_FALSE(reader->Finish().ok());

  const std::string line = log.Await("method=GenerateImage");
  EXPECT_THAT(line, HasSubstr("code=NOT_FOUND"));
  EXPECT_THAT(line, HasSubstr("reason=ADAPTER_NOT_FOUND"));
  EXPECT_THAT(line, HasSubstr("request_id=\"find me\""));
  EXPECT_THAT(line, HasSubstr("traceparent=" + trace));
  EXPECT_THAT(line, HasSubstr("nobody"));
  EXPECT_THAT(line, testing::Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace graft
