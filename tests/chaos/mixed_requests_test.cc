// No request ever gets another's adapter: many clients, many adapters, and
// everything that can happen to both at once. Every image is compared with one
// that a fresh process made beforehand for its set of adapters alone.
//
// GRAFT_CHAOS_REQUESTS=20000 in the environment makes it the full size.

#include <algorithm>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/chaos/chaos_model.h"
#include "tests/chaos/golden_images.h"
#include "tests/chaos/metrics_reader.h"
#include "tests/chaos/mixed_load.h"
#include "tests/chaos/process_figures.h"
#include "tests/chaos/style_shelf.h"
#include "tests/integration/daemon_process.h"
#include "tests/testing/full_size.h"

namespace graft {
namespace {

using testing::IsEmpty;

constexpr int kStyles = 200;
constexpr int kFullSize = 20'000;

int Requests() { return SizeOfTest("GRAFT_CHAOS_REQUESTS", 500); }

// What all daemons here have in common.
std::vector<std::string> BaseFlags(const ChaosModel& model) {
  return {"--model=" + model.path(), "--device=cpu", "--min_side=16",
          "--log_level=warning"};
}

std::vector<std::string> GoldenFlags(const ChaosModel& model) {
  std::vector<std::string> flags = BaseFlags(model);
  flags.push_back("--batching=off");
  return flags;
}

double Sum(const std::map<std::string, double>& values) {
  double sum = 0;
  for (const auto& [key, value] : values) sum += value;
  return sum;
}

// The recipes with their images: made once for both tests.
struct Setting {
  Setting()
      : sets(Requests() >= kFullSize ? 160 : 12),
        recipes(DrawRecipes(shelf, sets, kPerSet, random)),
        golden(GoldenFlags(model), shelf, recipes, kPerSet) {}

  static constexpr int kPerSet = 2;
  const int sets;
  const ChaosModel model;
  const StyleShelf shelf{model, kStyles};
  std::mt19937_64 random{1};
  const std::vector<Recipe> recipes;
  const GoldenImages golden;
};

class MixedRequestsTest : public testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() { setting = new Setting(); }
  static void TearDownTestSuite() { delete setting; }

  MixedRequestsTest() : daemon_(Flags()) {}

  bool exact() const { return std::string(GetParam()) == "off"; }

  // Memory for a part of the adapters only, on the host and on the device.
  std::vector<std::string> Flags() const {
    size_t bytes = 0;
    for (const Style& style : setting->shelf.styles()) {
      for (const std::string& content : style.contents) bytes += content.size();
    }
    std::vector<std::string> flags = BaseFlags(setting->model);
    flags.insert(flags.end(),
                 {absl::StrCat("--batching=", GetParam()),
                  "--adapter_dir=" + setting->shelf.path(), "--autoload",
                  "--adapter_poll=200ms", "--max_queued_requests=24",
                  // What may fill up does so before memory is looked at.
                  "--max_finished_bytes=500000",
                  absl::StrCat("--max_adapter_host_bytes=", bytes * 7 / 10),
                  absl::StrCat("--max_adapter_device_bytes=", bytes * 3 / 10),
                  absl::StrCat("--metrics_listen=127.0.0.1:", metrics_port_)});
    return flags;
  }

  // One request at a time: a load that nobody else disturbs.
  void LoadAll() {
    GraftClient client({.server = daemon_.address()});
    for (size_t i = 0; i < kStyles; ++i) {
      if (setting->shelf.styles()[i].autoloaded) continue;
      const auto loaded = client.LoadAdapter(setting->shelf.LoadRequest(i, 0));
      ASSERT_TRUE(loaded.ok()) << loaded.status();
    }
  }

  // Waits until nothing runs or waits any more, whose clients have left.
  std::map<std::string, double> MetricsAtRest() const {
    std::map<std::string, double> metrics;
    do {
      metrics = ReadMetrics(metrics_port_);
    } while (metrics.empty() || metrics["graft_requests_running"] > 0 ||
             metrics["graft_requests_waiting"] > 0);
    return metrics;
  }

  void CheckMetrics(const LoadTally& tally) const;

  static const Setting* setting;
  const int metrics_port_ = FreePort();
  DaemonProcess daemon_;
};

const Setting* MixedRequestsTest::setting = nullptr;

// Every request is in the metrics, under the code that its client saw.
void MixedRequestsTest::CheckMetrics(const LoadTally& tally) const {
  int heard = 0;
  for (const auto& [code, count] : tally.codes) heard += count;
  // An RPC is counted as it ends, which its client may hear of before.
  std::map<std::string, double> metrics;
  std::map<std::string, double> codes;
  do {
    metrics = MetricsAtRest();
    codes = ByCode(metrics, "graft_requests_total", "GenerateImage");
  } while (Sum(codes) < heard + tally.unheard_accepted);
  EXPECT_LE(Sum(codes), heard + tally.unheard);
  double unheard_images = 0;
  for (const auto& [code, count] : codes) {
    const auto seen = tally.codes.find(code);
    const double rest = count - (seen == tally.codes.end() ? 0 : seen->second);
    EXPECT_GE(rest, 0) << code;
    if (code == "OK") unheard_images = rest;
    std::cout << "  " << code << ": " << count << ", of which " << rest
              << " ended at their clients\n";
  }
  // Of a stream that was dropped at its very end the images are counted.
  EXPECT_GE(metrics["graft_images_total"], tally.images + unheard_images);
  EXPECT_LE(metrics["graft_images_total"], tally.images + tally.unheard);
  for (const auto& [method, calls] : tally.calls) {
    EXPECT_EQ(Sum(ByCode(metrics, "graft_requests_total", method)),
              calls + (method == "LoadAdapter" ? kStyles / 2 : 0))
        << method;
  }
}

TEST_P(MixedRequestsTest, EveryImageIsItsOwn) {
  EXPECT_EQ(setting->golden.distinct(), setting->golden.size());
  ASSERT_TRUE(daemon_.WaitUntilServing()) << daemon_.log();
  LoadAll();
  const int requests = Requests();
  const int warm_up = requests / 4;
  absl::Mutex mu;
  std::vector<Point> memory;
  MixedLoad load({.server = daemon_.address(),
                  .exact = exact(),
                  .on_request =
                      [&](int number) {
                        if (number < warm_up || number % 50 != 0) return;
                        const auto bytes = static_cast<double>(
                            ReadProcessFigures(daemon_.pid()).resident_bytes);
                        absl::MutexLock lock(&mu);
                        memory.push_back({static_cast<double>(number), bytes});
                      }},
                 &setting->shelf, &setting->recipes, &setting->golden);
  const absl::Time begin = absl::Now();
  load.Run(warm_up);
  MetricsAtRest();
  const ProcessFigures before = ReadProcessFigures(daemon_.pid());
  load.Run(requests - warm_up);
  MetricsAtRest();
  const ProcessFigures after = ReadProcessFigures(daemon_.pid());
  const absl::Duration taken = absl::Now() - begin;

  const LoadTally tally = load.tally();
  std::cout << requests << " requests of " << setting->recipes.size()
            << " recipes (" << setting->golden.size() << " golden images of "
            << setting->golden.processes() << " processes) in " << taken << ": "
            << tally.images << " images compared\n";
  EXPECT_THAT(tally.mistakes, IsEmpty());
  EXPECT_GT(tally.images, requests / 2);
  CheckMetrics(tally);
  for (const auto& [reason, count] : tally.reasons) {
    std::cout << "  " << reason << ": " << count << "\n";
  }
  std::cout << "  differ from the golden image: " << tally.images_that_differ
            << ", by at most " << tally.max_difference
            << " of 255, in the mean of an image by at most "
            << tally.max_mean_difference << "\n";

  constexpr double kMegabyte = 1e6;
  const Slope slope = FitSlope(memory);
  std::cout << "  memory: " << after.resident_bytes / kMegabyte << " MB, slope "
            << slope.per_unit * 10'000 / kMegabyte << " +- "
            << slope.margin * 10'000 / kMegabyte << " MB in 10,000 requests; "
            << "descriptors " << before.descriptors << ", " << after.descriptors
            << "; threads " << before.threads << ", " << after.threads << "\n";
  EXPECT_LE(after.descriptors, before.descriptors + 2);  // scrapes that end
  EXPECT_LE(after.threads, before.threads + 4);
  if (requests >= kFullSize) {
    // The allocator's arenas fill slowly, and so does oneDNN's cache of
    // kernels, a thousand of them. What would be lost with each request, a
    // kilobyte of it, would show.
    EXPECT_LE((slope.per_unit - slope.margin) * 10'000, 8 * kMegabyte);
  }
  const auto verified = GraftClient({.server = daemon_.address()})
                            .VerifyBaseWeights(v1::VerifyBaseWeightsRequest());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT(verified->differing(), IsEmpty());
  EXPECT_EQ(daemon_.Stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Batching, MixedRequestsTest,
                         testing::Values("off", "on"), [](const auto& test) {
                           return std::string(test.param);
                         });

}  // namespace
}  // namespace graft
