#include "tests/bench/load/load_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/client_status.h"

namespace graft::load {
namespace {

using ::testing::HasSubstr;

constexpr Window kWindow = {absl::Seconds(10), absl::Seconds(20)};

// Sent on time.
Outcome Request(double at, double latency,
                const absl::Status& status = absl::OkStatus()) {
  Outcome outcome;
  outcome.adapter = "ink";
  outcome.scheduled = outcome.sent = absl::Seconds(at);
  outcome.ended = absl::Seconds(at + latency);
  outcome.status = status;
  outcome.images = status.ok() ? 1 : 0;
  return outcome;
}

absl::Status QueueFull() {
  return WithErrorReason(absl::UnavailableError("full"), "QUEUE_FULL");
}

TEST(PercentileTest, IsTheNearestRank) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_EQ(Percentile(values, 50), 2);
  EXPECT_EQ(Percentile(values, 51), 3);
  EXPECT_EQ(Percentile(values, 99), 4);
  EXPECT_EQ(Percentile(values, 100), 4);
  EXPECT_EQ(Percentile(values, 0), 1);
  EXPECT_EQ(Percentile({}, 50), 0);
}

TEST(SummarizeTest, RatesCountWhatHappensInTheWindow) {
  const auto summary = Summarize({Request(9, 3),    // ends in it
                                  Request(11, 1),   // both
                                  Request(19, 2),   // begins in it
                                  Request(21, 1)},  // neither
                                 kWindow);
  EXPECT_EQ(summary["offered_per_s"], 0.2);
  EXPECT_EQ(summary["served_per_s"], 0.2);
}

TEST(SummarizeTest, LatencyIsCountedFromTheScheduledTime) {
  Outcome late = Request(11, 2);
  late.sent += absl::Seconds(1.5);
  const auto summary = Summarize({late}, kWindow);
  EXPECT_EQ(summary["latency_ms"]["max"], 2000);
  EXPECT_EQ(summary["late_ms"]["max"], 1500);
}

TEST(SummarizeTest, OutsideIsWhatTheServerDoesNotReport) {
  Outcome outcome = Request(11, 1);
  outcome.timings.set_queue_ms(300);
  outcome.timings.set_denoise_ms(600);
  const auto summary = Summarize({outcome}, kWindow);
  EXPECT_EQ(summary["stages_ms"]["denoise"]["p50"], 600);
  EXPECT_NEAR(summary["outside_ms"]["p50"].get<double>(), 100, 1e-6);
}

TEST(SummarizeTest, TheRefusedAreNotServed) {
  const auto summary =
      Summarize({Request(11, 1), Request(12, 0.01, QueueFull()),
                 Request(13, 0.5, absl::NotFoundError("what?"))},
                kWindow);
  EXPECT_EQ(summary["answers"]["OK"], 1);
  EXPECT_EQ(summary["answers"]["UNAVAILABLE QUEUE_FULL"], 1);
  EXPECT_EQ(summary["answers"]["NOT_FOUND NO_REASON"], 1);
  EXPECT_EQ(summary["images_per_s"], 0.1);
  EXPECT_EQ(summary["latency_ms"]["p50"], 1000);
  EXPECT_EQ(summary["refused"]["requests"], 1);
  EXPECT_EQ(summary["refused"]["with_retry_delay"], 0);
  EXPECT_NEAR(summary["refused"]["answer_ms"]["p99"].get<double>(), 10, 1e-6);
}

TEST(ToTableTest, HasEveryAnswer) {
  const std::string table = ToTable(
      Summarize({Request(11, 1), Request(12, 0.01, QueueFull())}, kWindow));
  EXPECT_THAT(table, HasSubstr("1 OK"));
  EXPECT_THAT(table, HasSubstr("1 UNAVAILABLE QUEUE_FULL"));
}

}  // namespace
}  // namespace graft::load
