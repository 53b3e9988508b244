#include "tests/bench/load/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace graft::load {
namespace {

using ::testing::HasSubstr;

TEST(ParseImageKindTest, ReadsAllParts) {
  const auto kind = ParseImageKind("64x192:30:4:0.5");
  ASSERT_TRUE(kind.ok()) << kind.status();
  EXPECT_EQ(kind->width, 64u);
  EXPECT_EQ(kind->height, 192u);
  EXPECT_EQ(kind->steps, 30u);
  EXPECT_EQ(kind->count, 4u);
  EXPECT_EQ(kind->share, 0.5);
}

TEST(ParseImageKindTest, CountAndShareMayBeLeftOut) {
  const auto kind = ParseImageKind("64x64:8");
  ASSERT_TRUE(kind.ok()) << kind.status();
  EXPECT_EQ(kind->count, 1u);
  EXPECT_EQ(kind->share, 1);
}

TEST(ParseImageKindTest, RefusesWhatItDoesNotUnderstand) {
  for (const char* const bad :
       {"", "64x64", "64:8", "64x64x64:8", "0x64:8", "64x64:0", "64x64:8:0",
        "64x64:8:1:0", "64x64:8:1:nan", "64x64:8:1:1:1", "-64x64:8"}) {
    EXPECT_THAT(ParseImageKind(bad).status().message(),
                HasSubstr("WIDTHxHEIGHT"))
        << bad;
  }
}

TEST(WorkloadTest, IsAFunctionOfTheSeed) {
  const auto drawn = [](uint64_t seed) {
    Workload workload({.adapters = {"a", "b", "c"}, .seed = seed});
    std::string texts;
    for (int i = 0; i < 20; ++i) texts += workload.Next().ShortDebugString();
    return texts;
  };
  EXPECT_EQ(drawn(1), drawn(1));
  EXPECT_NE(drawn(1), drawn(2));
}

TEST(WorkloadTest, MixesKindsByShare) {
  Workload workload({.kinds = {{.width = 64, .steps = 4, .share = 3},
                               {.width = 128, .steps = 8, .share = 1}}});
  std::map<uint32_t, int> steps_of;
  for (int i = 0; i < 4000; ++i) {
    const v1::GenerateImageRequest request = workload.Next();
    EXPECT_EQ(request.width() == 64, request.steps() == 4);
    ++steps_of[request.steps()];
  }
  EXPECT_NEAR(steps_of[4], 3000, 110);  // four standard deviations
  EXPECT_EQ(steps_of[4] + steps_of[8], 4000);
}

TEST(WorkloadTest, WantsThePopularAdapterMostOften) {
  Workload workload({.adapters = {"hit", "flop"}, .zipf_exponent = 2});
  std::map<std::string, int> wanted;
  for (int i = 0; i < 1000; ++i) {
    ++wanted[workload.Next().adapters(0).name()];
  }
  EXPECT_NEAR(wanted["hit"], 800, 51);
}

TEST(WorkloadTest, WithoutAdaptersWantsTheBase) {
  Workload workload({});
  EXPECT_EQ(workload.Next().adapters_size(), 0);
}

}  // namespace
}  // namespace graft::load
