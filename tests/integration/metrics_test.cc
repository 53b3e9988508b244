// What Prometheus sees.

#include <arpa/inet.h>
#include <grpcpp/client_context.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::HasSubstr;
using testing::Not;

// GET /metrics of 127.0.0.1, with its header; empty if nobody answers.
std::string Scrape(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
      0) {
    constexpr char kRequest[] =
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    EXPECT_GT(send(fd, kRequest, sizeof(kRequest) - 1, 0), 0);
    char buffer[4096];
    for (ssize_t size; (size = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      text.append(buffer, static_cast<size_t>(size));
    }
  }
  close(fd);
  return text;
}

class MetricsTest : public testing::Test {
 protected:
  std::string Metrics() const {
    return Scrape(daemon_.daemon().metrics_port());
  }

  // Scrapes until `text` is there: an RPC is counted as it ends, which its
  // client may hear of before.
  std::string Await(const std::string& text) const {
    std::string metrics;
    do {
      metrics = Metrics();
    } while (metrics.find(text) == std::string::npos);
    return metrics;
  }

  mutable InProcessDaemon daemon_{
      [](DaemonOptions& options) { options.metrics_listen = "127.0.0.1:0"; }};
  GraftClient client_{{.server = daemon_.address()}};
};

TEST_F(MetricsTest, CountsRequestsImagesStepsAndSwitches) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  v1::LoadAdapterRequest load;
  load.set_path("ink.safetensors");
  ASSERT_TRUE(client_.LoadAdapter(load).ok());
  v1::GenerateImageRequest request;
  request.set_prompt("a secret");
  request.set_steps(3);
  request.set_count(2);
  const auto ignore = [](const v1::GenerateImageResponse&) {};
  ASSERT_TRUE(client_.Generate(request, ignore).ok());
  request.add_adapters()->set_name("ink");
  ASSERT_TRUE(client_.Generate(request, ignore).ok());
  request.mutable_adapters(0)->set_name("nobody");
  ASSERT_FALSE(client_.Generate(request, ignore).ok());

  const std::string metrics = Await(
      "graft_requests_total{code=\"NOT_FOUND\",method=\"GenerateImage\"} 1\n");
  EXPECT_THAT(metrics, HasSubstr("graft_requests_total{code=\"OK\",method="
                                 "\"GenerateImage\"} 2\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_images_total 4\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_steps_total 12\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_queue_time_seconds_count 2\n"));
  EXPECT_THAT(metrics,
              HasSubstr("graft_stage_duration_seconds_count{stage=\"denoise\"} "
                        "2\n"));
  EXPECT_THAT(metrics,
              HasSubstr("graft_adapter_switches_total{kind=\"replace\"} 1\n"));
  EXPECT_THAT(metrics,
              HasSubstr("graft_adapter_switch_duration_seconds_count 1\n"));
  EXPECT_THAT(metrics,
              HasSubstr("graft_adapter_loads_total{result=\"ok\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_loaded{adapter=\"ink\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_merged{adapter=\"ink\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_memory_bytes{kind=\"base\"} 1000\n"));
  EXPECT_THAT(metrics, Not(HasSubstr("secret")));
  EXPECT_THAT(metrics, Not(HasSubstr("nobody")));
}

TEST_F(MetricsTest, TellsWhatWaitsAndRuns) {
  daemon_.engine().Block(FakeEngine::Call::kStep);
  const auto stub = v1::GenerationService::NewStub(daemon_.NewChannel());
  v1::GenerateImageRequest request;
  request.set_steps(1);
  grpc::ClientContext context;
  const auto reader = stub->GenerateImage(&context, request);
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(FakeEngine::Call::kStep));
  EXPECT_THAT(Metrics(), HasSubstr("graft_requests_running 1\n"));
  EXPECT_THAT(Metrics(), HasSubstr("graft_requests_waiting 0\n"));
  daemon_.engine().Unblock(FakeEngine::Call::kStep);
  v1::GenerateImageResponse event;
  while (reader->Read(&event)) continue;
  EXPECT_TRUE(reader->Finish().ok());
  Await("graft_requests_running 0\n");
}

TEST_F(MetricsTest, TellsDamageOfTheBase) {
  EXPECT_THAT(Metrics(), HasSubstr("graft_base_weights_intact 1\n"));
  daemon_.engine().SetDrift({"a"}, /*repairable=*/false);
  v1::VerifyBaseWeightsRequest request;
  ASSERT_TRUE(client_.VerifyBaseWeights(request).ok());
  EXPECT_THAT(Metrics(), HasSubstr("graft_base_weights_intact 0\n"));
}

TEST(MetricsListenTest, TakenPortIsAnError) {
  InProcessDaemon first(
      [](DaemonOptions& options) { options.metrics_listen = "127.0.0.1:0"; });
  DaemonOptions options;
  options.transport.listen = "127.0.0.1:0";
  for (const std::string& address :
       {"127.0.0.1:" + std::to_string(first.daemon().metrics_port()),
        std::string("nonsense")}) {
    options.metrics_listen = address;
    EXPECT_THAT(
        Daemon::Start(options,
                      [](const EngineOptions&) {
                        return absl::UnimplementedError("not reached");
                      }),
        HasReason(ErrorReason::kInvalidField, HasSubstr("--metrics_listen")));
  }
}

}  // namespace
}  // namespace graft
