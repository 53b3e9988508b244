#include "server/scheduling/adapters_at_step.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scheduling/scheduler_fixture.h"

namespace graft {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

// Only the store of the fixture is used.
class AdaptersAtStepTest : public SchedulerFixture {
 protected:
  AdaptersAtStepTest() {
    Load("ink");
    Load("sketch");
  }

  RequestedAdapter Adapter(const std::string& name, double weight,
                           std::vector<WeightRange> schedule = {}) {
    return {*store_->Acquire(name), weight, weight, std::move(schedule)};
  }
};

std::string KeyAt(const std::vector<RequestedAdapter>& adapters, int step) {
  return AdapterSetKey(AdaptersAtStep(adapters, step, 10));
}

TEST_F(AdaptersAtStepTest, WithoutScheduleItIsMergedThroughout) {
  std::vector<RequestedAdapter> adapters;
  adapters.push_back(Adapter("ink", 0.5));
  for (int step : {0, 5, 9}) {
    const auto merged = AdaptersAtStep(adapters, step, 10);
    ASSERT_THAT(merged, SizeIs(1));
    EXPECT_EQ(merged[0].name, "ink");
    EXPECT_EQ(merged[0].weight, 0.5);
  }
}

TEST_F(AdaptersAtStepTest, AScheduleDecidesWhoIsMerged) {
  std::vector<RequestedAdapter> adapters;
  adapters.push_back(
      Adapter("ink", 1, {{.from = 0.4, .to = 1, .weight = 0.8}}));
  adapters.push_back(
      Adapter("sketch", 1,
              {{.from = 0, .to = 0.4, .weight = 2, .text_encoder_weight = 3}}));
  const auto first = AdaptersAtStep(adapters, 3, 10);
  ASSERT_THAT(first, SizeIs(1));
  EXPECT_EQ(first[0].name, "sketch");
  EXPECT_EQ(first[0].weight, 2);
  EXPECT_EQ(first[0].text_encoder_weight, 3);
  EXPECT_THAT(first[0].schedule, IsEmpty());
  const AdapterSet second = EngineSetAtStep(adapters, 4, 10);
  ASSERT_THAT(second, SizeIs(1));
  EXPECT_EQ(second[0].adapter->sha256(), adapters[0].handle.sha256());
  EXPECT_EQ(second[0].unet_weight, 0.8);
  EXPECT_EQ(second[0].text_encoder_weight, 1);
}

TEST_F(AdaptersAtStepTest, WeightZeroIsNotMerged) {
  std::vector<RequestedAdapter> adapters;
  adapters.push_back(Adapter("ink", 0));
  adapters.push_back(Adapter("sketch", 0));
  EXPECT_THAT(AdaptersAtStep(adapters, 0, 10), IsEmpty());
  EXPECT_THAT(EngineSetAtStep(adapters, 0, 10), IsEmpty());
  adapters[1].text_encoder_weight = -1;
  EXPECT_THAT(AdaptersAtStep(adapters, 0, 10), SizeIs(1));
}

TEST_F(AdaptersAtStepTest, TheReplyTellsTheSchedule) {
  std::vector<RequestedAdapter> adapters;
  adapters.push_back(
      Adapter("ink", 1, {{.from = 0.4, .to = 1, .weight = 0.8}}));
  const auto applied = ToAppliedAdapters(adapters);
  ASSERT_THAT(applied, SizeIs(1));
  EXPECT_EQ(applied[0].schedule, adapters[0].schedule);
}

TEST_F(AdaptersAtStepTest, KeysAreEqualForEqualSets) {
  std::vector<RequestedAdapter> one;
  one.push_back(Adapter("ink", 0.1));
  one.push_back(Adapter("sketch", 1));
  std::vector<RequestedAdapter> other;
  other.push_back(Adapter("sketch", 1));
  other.push_back(
      Adapter("ink", 0.1, {{.weight = 0.1, .text_encoder_weight = 0.1}}));
  EXPECT_EQ(KeyAt(one, 0), KeyAt(other, 0));
  one[0].text_encoder_weight = 0;
  other[1].schedule[0].text_encoder_weight = -0.0;
  EXPECT_EQ(KeyAt(one, 0), KeyAt(other, 0));
}

TEST_F(AdaptersAtStepTest, KeysDifferForDifferentSets) {
  std::vector<RequestedAdapter> one;
  one.push_back(Adapter("ink", 0.1));
  std::vector<RequestedAdapter> other;
  EXPECT_NE(KeyAt(one, 0), KeyAt(other, 0));
  other.push_back(Adapter("sketch", 0.1));
  EXPECT_NE(KeyAt(one, 0), KeyAt(other, 0));
  other.clear();
  other.push_back(Adapter("ink", 0.1));
  EXPECT_EQ(KeyAt(one, 0), KeyAt(other, 0));
  other[0].text_encoder_weight = std::nextafter(0.1, 1);
  EXPECT_NE(KeyAt(one, 0), KeyAt(other, 0));
}

}  // namespace
}  // namespace graft
