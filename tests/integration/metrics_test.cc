// What Prometheus sees.

#include <grpcpp/client_context.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/integration/scrape.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/loopback.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::HasSubstr;
using testing::Not;

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
  EXPECT_THAT(
      metrics,
      HasSubstr("graft_batch_size_sum{stop_reason=\"queue_empty\"} 12\n"));
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
  EXPECT_THAT(metrics,
              HasSubstr("graft_adapter_loads_total{result=\"error\"} 0\n"));
  EXPECT_THAT(metrics,
              HasSubstr("graft_adapter_loaded{adapter=\"ink\",level=\"device\","
                        "pinned=\"false\"} 1\n"));
  EXPECT_THAT(metrics,
              HasSubstr("graft_adapter_requests_total{adapter=\"ink\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_cache_hits_total 1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_cache_misses_total 0\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_merged{adapter=\"ink\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_memory_bytes{kind=\"base\"} 1000\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_gpu_memory_used_bytes 2000\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_gpu_memory_total_bytes 4000\n"));
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

TEST_F(MetricsTest, TellsTheAdaptersOfEachLevel) {
  for (const int variant : {0, 1}) {
    const std::string file = std::string(variant == 0 ? "a" : "b");
    daemon_.adapter_dir().Write(file + ".safetensors", TinyLoraFile(variant));
    v1::LoadAdapterRequest load;
    load.set_path(file + ".safetensors");
    load.set_pinned(variant == 1);
    ASSERT_TRUE(client_.LoadAdapter(load).ok());
  }
  const std::string metrics = Metrics();
  for (const char* const line :
       {"graft_adapters_loaded{level=\"host\"} 2\n",
        "graft_adapters_loaded{level=\"device\"} 2\n",
        "graft_adapter_evictions_total{tier=\"host\"} 0\n",
        "graft_adapter_evictions_total{tier=\"device\"} 0\n",
        "graft_adapter_loaded{adapter=\"b\",level=\"device\",pinned=\"true\"} "
        "1\n"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
  EXPECT_THAT(metrics, testing::ContainsRegex(
                           "graft_adapter_bytes.level=\"host\". [1-9]"));
  EXPECT_THAT(metrics, testing::ContainsRegex(
                           "graft_adapter_bytes.level=\"device\". [1-9]"));
  EXPECT_THAT(metrics,
              testing::ContainsRegex("\nprocess_resident_memory_bytes [1-9]"));
}

TEST_F(MetricsTest, TellsRoutersWhichAdaptersRunAndWait) {
  for (const char* const name : {"a", "b"}) {
    daemon_.adapter_dir().Write(std::string(name) + ".safetensors",
                                TinyLoraFile(*name));
    v1::LoadAdapterRequest load;
    load.set_path(std::string(name) + ".safetensors");
    ASSERT_TRUE(client_.LoadAdapter(load).ok());
  }
  daemon_.engine().Block(FakeEngine::Call::kStep);
  const auto generate = [this](const char* name) {
    v1::GenerateImageRequest request;
    request.set_steps(1);
    request.add_adapters()->set_name(name);
    EXPECT_TRUE(
        client_.Generate(request, [](const v1::GenerateImageResponse&) {})
            .ok());
  };
  std::thread running([&] { generate("a"); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(FakeEngine::Call::kStep));
  std::thread waiting([&] { generate("b"); });
  Await(
      "graft_lora_requests_info{max_lora=\"16\",running_lora_adapters=\"a\","
      "waiting_lora_adapters=\"b\"} 1");
  daemon_.engine().Unblock(FakeEngine::Call::kStep);
  running.join();
  waiting.join();
}

TEST(LoadingMetricsTest, TellsWhoseAdaptersAreBeingLoaded) {
  InProcessDaemon daemon([](DaemonOptions& options) {
    options.metrics_listen = "127.0.0.1:0";
    options.autoload = true;
  });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  daemon.engine().Block(FakeEngine::Call::kPrepare);
  GraftClient client({.server = daemon.address()});
  std::thread loading([&client] {
    v1::GenerateImageRequest request;
    request.set_steps(1);
    request.add_adapters()->set_name("ink");
    EXPECT_TRUE(
        client.Generate(request, [](const v1::GenerateImageResponse&) {}).ok());
  });
  ASSERT_TRUE(daemon.engine().WaitUntilBlocked(FakeEngine::Call::kPrepare));
  const std::string metrics = Scrape(daemon.daemon().metrics_port());
  EXPECT_THAT(metrics, HasSubstr("graft_requests_loading 1\n"));
  EXPECT_THAT(metrics, HasSubstr("waiting_lora_adapters=\"ink\"} 1"));
  const auto load = client.GetLoad();
  ASSERT_TRUE(load.ok());
  EXPECT_EQ(load->loading_requests(), 1u);
  daemon.engine().Unblock(FakeEngine::Call::kPrepare);
  loading.join();
}

TEST(DaemonMetricsTest, CountsWaitsThatWereInVainAndNoStepsThatWereNotMade) {
  DaemonMetrics metrics;
  ASSERT_THAT(metrics.Listen("127.0.0.1:0"), IsOk());
  const RpcHooks hooks = metrics.Count(DefaultRpcHooks());
  const absl::Status late = Error(ErrorReason::kDeadlineInQueue, "late");
  GenerationSummary summary;
  hooks.on_generated(late, summary);  // refused, so that it has not waited
  summary.timings.queue = absl::Seconds(20);
  hooks.on_generated(late, summary);
  hooks.on_generated(Error(ErrorReason::kClientCancelled, "gone"), summary);
  metrics.OnStep({});
  const std::string text = Scrape(metrics.port());
  EXPECT_THAT(text, HasSubstr("graft_queue_time_seconds_count 1\n"));
  EXPECT_THAT(text, HasSubstr("graft_images_total 0\n"));
  EXPECT_THAT(text,
              HasSubstr("graft_adapter_switches_total{kind=\"none\"} 0\n"));
}

// A label must not have any number of values.
TEST_F(MetricsTest, NamesOfAdaptersInLabelsAreBounded) {
  DaemonMetrics metrics;
  ASSERT_THAT(metrics.Listen("127.0.0.1:0"), IsOk());
  const RpcHooks hooks = metrics.Count(DefaultRpcHooks());
  for (size_t i = 0; i < DaemonMetrics::kMaxAdapterNames + 2; ++i) {
    GenerationSummary summary;
    summary.adapters.emplace_back().name = "a" + std::to_string(i);
    hooks.on_generated(absl::OkStatus(), summary);
  }
  const std::string text = Scrape(metrics.port());
  EXPECT_THAT(text,
              HasSubstr("graft_adapter_requests_total{adapter=\"a999\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("adapter=\"a1000\"")));
  EXPECT_THAT(
      text, HasSubstr("graft_adapter_requests_total{adapter=\"_other\"} 2\n"));
}

// The same for those that are in memory: with --autoload, clients choose them.
TEST_F(MetricsTest, NamesOfLoadedAndMergedAdaptersAreBounded) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  constexpr auto kNames = static_cast<int>(DaemonMetrics::kMaxAdapterNames);
  v1::LoadAdapterRequest load;
  load.set_path("ink.safetensors");
  for (int i = 0; i < kNames + 2; ++i) {
    load.set_name(absl::StrFormat("a%04d", i));  // sorted by number
    ASSERT_TRUE(client_.LoadAdapter(load).ok());
  }
  const std::string labels = "level=\"device\",pinned=\"false\"}";
  EXPECT_THAT(Metrics(), HasSubstr("graft_adapter_loaded{adapter=\"a0999\"," +
                                   labels + " 1\n"));
  v1::GenerateImageRequest request;
  request.set_steps(1);
  request.add_adapters()->set_name(load.name());
  const auto ignore = [](const v1::GenerateImageResponse&) {};
  ASSERT_TRUE(client_.Generate(request, ignore).ok());
  const std::string metrics = Metrics();
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_merged{adapter=\"_other\"} "
                                 "1\n"));
  EXPECT_THAT(metrics, HasSubstr("graft_adapter_loaded{adapter=\"_other\"," +
                                 labels + " 2\n"));
  EXPECT_THAT(metrics, Not(HasSubstr("adapter=\"a1")));
}

// Its series are any number, too: Prometheus is told to leave them out.
TEST_F(MetricsTest, ScrapeConfigDropsWhatIsForRouters) {
  const std::string name = "graft_lora_requests_info";
  EXPECT_THAT(Metrics(), HasSubstr("\n" + name + "{"));
  std::ifstream file(GRAFT_MONITORING_DIR "/prometheus.yaml");
  const std::string config(std::istreambuf_iterator<char>(file), {});
  EXPECT_THAT(config, HasSubstr("      - source_labels: [__name__]\n"
                                "        regex: " +
                                name +
                                "\n"
                                "        action: drop\n"));
}

TEST_F(MetricsTest, TellsDamageOfTheBase) {
  EXPECT_THAT(Metrics(), HasSubstr("graft_base_weights_intact 1\n"));
  ASSERT_TRUE(client_.VerifyBaseWeights({}).ok());
  EXPECT_THAT(Metrics(), HasSubstr("graft_base_weights_verifications_total{"
                                   "result=\"intact\"} 1\n"));
  daemon_.engine().SetDrift({"a"}, /*repairable=*/false);
  v1::VerifyBaseWeightsRequest request;
  ASSERT_TRUE(client_.VerifyBaseWeights(request).ok());
  EXPECT_THAT(Metrics(), HasSubstr("graft_base_weights_intact 0\n"));
  Await("graft_base_weights_verifications_total{result=\"damaged\"} ");
}

// Those that say nothing do not keep Prometheus out: it is served before they
// are cut off.
TEST_F(MetricsTest, SilentConnectionsDoNotBlindIt) {
  const std::string address =
      "127.0.0.1:" + std::to_string(daemon_.daemon().metrics_port());
  std::vector<int> silent;
  for (int i = 0; i < 4; ++i) silent.push_back(ConnectToLoopback(address));
  EXPECT_THAT(Metrics(), HasSubstr("graft_build_info"));
  for (const int fd : silent) {
    char byte = 0;
    EXPECT_EQ(recv(fd, &byte, 1, MSG_DONTWAIT), -1);  // 0: it was closed
    close(fd);
  }
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
