// Prometheus' own tool judges the metrics and the alert rules.

#include <cstdlib>
#include <string>

#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/integration/scrape.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

class PromtoolTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::string(GRAFT_PROMTOOL).empty()) return;
    if (std::getenv("CI") != nullptr) {
      FAIL() << "promtool is not there; deploy/install.sh --tests fetches it";
    }
    GTEST_SKIP() << "promtool is not there";
  }

  // Runs `promtool arguments`; its exit code. What it says goes to the log.
  static int Promtool(const std::string& arguments) {
    const std::string command =
        std::string("\"") + GRAFT_PROMTOOL + "\" " + arguments;
    return std::system(command.c_str());
  }

  static std::string Monitoring(const std::string& file) {
    return std::string("\"") + GRAFT_MONITORING_DIR + "/" + file + "\"";
  }

  TempDir files_;
};

// With every metric that there is: after some of everything.
TEST_F(PromtoolTest, AcceptsTheMetrics) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.metrics_listen = "127.0.0.1:0"; });
  GraftClient client({.server = daemon.address()});
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  v1::LoadAdapterRequest load;
  load.set_path("ink.safetensors");
  ASSERT_TRUE(client.LoadAdapter(load).ok());
  v1::GenerateImageRequest request;
  request.set_steps(1);
  request.add_adapters()->set_name("ink");
  ASSERT_TRUE(
      client.Generate(request, [](const v1::GenerateImageResponse&) {}).ok());
  ASSERT_TRUE(client.VerifyBaseWeights({}).ok());
  v1::UnloadAdapterRequest unload;
  unload.set_name("nobody");
  ASSERT_FALSE(client.UnloadAdapter(unload).ok());
  std::string metrics;
  do {  // an RPC is counted as it ends, which its client may hear of before
    metrics = Scrape(daemon.daemon().metrics_port());
  } while (metrics.find("graft_adapter_unloads_total{") == std::string::npos);
  const std::string file = files_.Write("metrics", metrics);
  EXPECT_EQ(Promtool("check metrics < \"" + file + "\""), 0);
}

TEST_F(PromtoolTest, SeesWhatIsWrongWithMetrics) {
  const std::string file = files_.Write("metrics", "graft_x_total{ 1\n");
  EXPECT_NE(Promtool("check metrics < \"" + file + "\" 2> /dev/null"), 0);
}

TEST_F(PromtoolTest, AcceptsTheScrapeConfig) {
  EXPECT_EQ(Promtool("check config " + Monitoring("prometheus.yaml")), 0);
}

TEST_F(PromtoolTest, AcceptsTheAlertRules) {
  EXPECT_EQ(Promtool("check rules " + Monitoring("graft-alerts.yaml")), 0);
}

TEST_F(PromtoolTest, TheAlertsFireWhenTheyShould) {
  EXPECT_EQ(Promtool("test rules " + Monitoring("graft-alerts-test.yaml")), 0);
}

}  // namespace
}  // namespace graft
