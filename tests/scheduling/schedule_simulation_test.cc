#include "tests/scheduling/schedule_simulation.h"

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduling/scheduling_policy.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

// The policies side by side at one load.
struct Comparison {
  SimulationResult fifo;
  SimulationResult join;
  SimulationResult round_robin;
  SimulationResult unmerged;
};

Comparison SimulateAll(const DeviceModel& device, double load) {
  TraceOptions options;
  options.pixels = device.pixels;
  options.per_second = load / TimeAlone({.pixels = device.pixels}, device);
  const Trace trace = GenerateTrace(options);
  return {Simulate(trace, SimulatedPolicy::kFifo, device),
          Simulate(trace, SimulatedPolicy::kJoin, device),
          Simulate(trace, SimulatedPolicy::kRoundRobin, device),
          Simulate(trace, SimulatedPolicy::kUnmerged, device)};
}

// Computed once: several tests look at the same loads.
const Comparison& Compare(const DeviceModel& device, double load) {
  static auto& cache = *new std::map<std::pair<int64_t, double>, Comparison>();
  const auto key = std::make_pair(device.pixels, load);
  const auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  return cache.emplace(key, SimulateAll(device, load)).first->second;
}

TEST(ScheduleSimulationTest, JoiningBeatsOneAtATime) {
  for (const DeviceModel& device : {SdxlModel(), Sd15Model()}) {
    for (const double load : {0.8, 0.95}) {
      const Comparison at = Compare(device, load);
      EXPECT_LT(at.join.p50, at.fifo.p50) << load;
      EXPECT_LT(at.join.p99, at.fifo.p99) << load;
      EXPECT_LT(at.join.switches_per_request, at.fifo.switches_per_request);
      EXPECT_GE(at.join.images_per_second, at.fifo.images_per_second * 0.999);
    }
    const Comparison overload = Compare(device, 1.1);
    EXPECT_GT(overload.join.images_per_second,
              overload.fifo.images_per_second * 1.03);
    EXPECT_LT(overload.join.p50, overload.fifo.p50 / 2);
  }
}

TEST(ScheduleSimulationTest, SlicingEqualJobsOnlyAddsLatency) {
  for (const DeviceModel& device : {SdxlModel(), Sd15Model()}) {
    for (const double load : {0.5, 0.8, 0.95, 1.1}) {
      const Comparison at = Compare(device, load);
      EXPECT_GT(at.round_robin.p50, at.join.p50) << load;
      EXPECT_GT(at.round_robin.p99, at.join.p99) << load;
      EXPECT_GT(at.round_robin.switches_per_request,
                at.join.switches_per_request * 1.5);
    }
    const Comparison at = Compare(device, 0.8);
    EXPECT_GT(at.round_robin.p99, at.fifo.p99);  // worse than no policy at all
  }
}

// Worth building for small models near saturation, and not for large ones.
TEST(ScheduleSimulationTest, UnmergedBatchesPayForSmallModelsOnly) {
  const Comparison large = Compare(SdxlModel(), 0.8);
  EXPECT_GT(large.unmerged.p50, large.join.p50);
  EXPECT_LT(large.unmerged.p99, large.join.p99);
  const Comparison small = Compare(Sd15Model(), 0.95);
  EXPECT_LT(small.unmerged.p50, small.join.p50);
  EXPECT_LT(small.unmerged.p99, small.join.p99 * 0.6);
}

TEST(ScheduleSimulationTest, ASlowSwitchSaturatesTheDeviceAtOnce) {
  DeviceModel slow = SdxlModel();
  slow.adapter_switch = 3.26;  // what reloading an adapter takes elsewhere
  TraceOptions options;
  options.requests = 1000;
  options.per_second = 0.5 / TimeAlone({}, SdxlModel());
  const SimulationResult result =
      Simulate(GenerateTrace(options), SimulatedPolicy::kFifo, slow);
  EXPECT_NEAR(result.images_per_second, 0.25, 0.02);
  EXPECT_GT(result.p50, 100);
}

TEST(ScheduleSimulationTest, NobodyIsPassedOverMoreThanAllowed) {
  EXPECT_LE(Compare(SdxlModel(), 1.1).join.max_passed_over, kMaxPassedOver);
}

TEST(ScheduleSimulationTest, TenantsAreSlowedDownAlike) {
  // One tenant sends far more than its share: it waits for itself.
  TraceOptions options;
  options.requests = 2000;
  options.tenants = 4;
  options.per_second = 1.1 / TimeAlone({}, SdxlModel());
  const SimulationResult result =
      Simulate(GenerateTrace(options), SimulatedPolicy::kJoin, SdxlModel());
  ASSERT_THAT(result.mean_slowdown, SizeIs(4));
  EXPECT_LT(result.mean_slowdown.at("tenant-3"), 10);
  EXPECT_GT(result.mean_slowdown.at("tenant-0"),
            3 * result.mean_slowdown.at("tenant-3"));
}

TEST(ScheduleTraceTest, ReadsWhatWasRecorded) {
  const auto trace = ParseTrace(
      "# arrival adapter\n\n0.5 3\n1 4 20 2 262144 alice batch\r\n1 5 10\n");
  ASSERT_THAT(trace, IsOk());
  ASSERT_THAT(*trace, SizeIs(3));
  EXPECT_EQ((*trace)[0].arrival, 0.5);
  EXPECT_EQ((*trace)[0].steps, 30);
  const SimulatedRequest& full = (*trace)[1];
  EXPECT_EQ(full.adapter, 4);
  EXPECT_EQ(full.steps, 20);
  EXPECT_EQ(full.images, 2);
  EXPECT_EQ(full.pixels, 262144);
  EXPECT_EQ(full.tenant, "alice");
  EXPECT_EQ(full.priority, Priority::kBatch);
}

TEST(ScheduleTraceTest, NamesTheLineThatItCannotRead) {
  for (const std::string line :
       {"x 1", "1", "1 2 0", "1 2 3 -1", "nan 2", "1 2 3 4 5 t other",
        "1 2 3 4 5 t batch more", "0.5 1"}) {
    const auto trace = ParseTrace("1 1\n" + line + "\n");
    ASSERT_FALSE(trace.ok()) << line;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("line 2"));
  }
}

TEST(ScheduleSimulationTest, AnEmptyTraceTakesNoTime) {
  EXPECT_EQ(Simulate({}, SimulatedPolicy::kJoin, SdxlModel()).p99, 0);
}

}  // namespace
}  // namespace graft
