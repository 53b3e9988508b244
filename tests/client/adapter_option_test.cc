#include "client/adapter_option.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

// The one adapter that `texts` name.
v1::AdapterRef ParseOne(const std::vector<std::string>& texts) {
  const auto refs = ParseAdapterOptions(texts);
  EXPECT_TRUE(refs.ok()) << refs.status();
  if (!refs.ok() || refs->size() != 1) return v1::AdapterRef();
  return refs->front();
}

TEST(AdapterOptionTest, NameAlone) {
  const v1::AdapterRef ref = ParseOne({"ink.v2"});
  EXPECT_EQ(ref.name(), "ink.v2");
  EXPECT_FALSE(ref.has_weight());
  EXPECT_FALSE(ref.has_text_encoder_weight());
  EXPECT_THAT(ref.schedule(), SizeIs(0));
}

TEST(AdapterOptionTest, Weights) {
  const v1::AdapterRef one = ParseOne({"ink=-0.8"});
  EXPECT_EQ(one.weight(), -0.8f);
  EXPECT_FALSE(one.has_text_encoder_weight());
  const v1::AdapterRef both = ParseOne({"ink=0.8:0"});
  EXPECT_EQ(both.weight(), 0.8f);
  EXPECT_TRUE(both.has_text_encoder_weight());
  EXPECT_EQ(both.text_encoder_weight(), 0.0f);
}

TEST(AdapterOptionTest, RangeHasTheWeights) {
  const v1::AdapterRef ref = ParseOne({"sketch=0.8:0.5@0-0.4"});
  EXPECT_EQ(ref.name(), "sketch");
  EXPECT_FALSE(ref.has_weight());
  ASSERT_THAT(ref.schedule(), SizeIs(1));
  EXPECT_EQ(ref.schedule(0).from(), 0.0f);
  EXPECT_EQ(ref.schedule(0).to(), 0.4f);
  EXPECT_EQ(ref.schedule(0).weight(), 0.8f);
  EXPECT_EQ(ref.schedule(0).text_encoder_weight(), 0.5f);
}

TEST(AdapterOptionTest, RangeWithoutWeights) {
  const v1::AdapterRef ref = ParseOne({"sketch@0.5-1"});
  ASSERT_THAT(ref.schedule(), SizeIs(1));
  EXPECT_FALSE(ref.schedule(0).has_weight());
  EXPECT_FALSE(ref.schedule(0).has_text_encoder_weight());
}

TEST(AdapterOptionTest, RangesOfOneNameAreOneAdapter) {
  const auto refs =
      ParseAdapterOptions({"sketch=0.8@0-0.4", "ink=0.5", "sketch=0.2@0.4-1"});
  ASSERT_TRUE(refs.ok()) << refs.status();
  ASSERT_THAT(*refs, SizeIs(2));
  EXPECT_EQ((*refs)[0].name(), "sketch");
  ASSERT_THAT((*refs)[0].schedule(), SizeIs(2));
  EXPECT_EQ((*refs)[0].schedule(1).from(), 0.4f);
  EXPECT_EQ((*refs)[0].schedule(1).weight(), 0.2f);
  EXPECT_EQ((*refs)[1].name(), "ink");
  EXPECT_EQ((*refs)[1].weight(), 0.5f);
}

TEST(AdapterOptionTest, MistakesNameTheOptionAndWhatIsWrong) {
  struct Mistake {
    std::vector<std::string> texts;
    std::string message;
  };
  const Mistake kMistakes[] = {
      {{"ink=strong"}, "--adapter ink=strong: the weight is no number"},
      {{"ink="}, "the weight is no number"},
      {{"ink=1:"}, "the text encoder's weight is no number"},
      {{"ink=1:2:3"}, "the text encoder's weight is no number"},
      {{"=0.8"}, "there is no name"},
      {{""}, "there is no name"},
      {{"@0-1"}, "there is no name"},
      {{"ink@0.4"}, "FROM-TO"},
      {{"ink@"}, "FROM-TO"},
      {{"ink@-0.4"}, "the start of the steps is no number"},
      {{"ink@0-"}, "the end of the steps is no number"},
      {{"ink@0-0.4-1"}, "the end of the steps is no number"},
      {{"ink@0-40%"}, "the end of the steps is no number"},
      {{"ink", "ink"}, "named more than once"},
      {{"ink@0-0.5", "ink"}, "named more than once"},
      {{"ink", "ink@0-0.5"}, "named more than once"},
  };
  for (const Mistake& mistake : kMistakes) {
    const auto refs = ParseAdapterOptions(mistake.texts);
    ASSERT_FALSE(refs.ok()) << mistake.texts.back();
    EXPECT_EQ(refs.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refs.status().message()),
                HasSubstr(mistake.message));
    EXPECT_THAT(std::string(refs.status().message()),
                HasSubstr("--adapter " + mistake.texts.back()));
  }
}

}  // namespace
}  // namespace graft
