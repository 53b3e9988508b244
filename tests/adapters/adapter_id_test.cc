#include "server/adapters/adapter_id.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::HasSubstr;
using ::testing::Pair;

TEST(AdapterIdTest, TakesWhatTheRuleAllows) {
  for (const char* id : {"a", "7", "ink", "Ink_v1.2-final", "0._-"}) {
    EXPECT_TRUE(IsValidAdapterId(id)) << id;
  }
  EXPECT_TRUE(IsValidAdapterId(std::string(128, 'x')));
}

TEST(AdapterIdTest, RefusesTheRest) {
  for (const char* id : {"", ".ink", "-ink", "_ink", "my style", "a/b", "é",
                         "a\n", "a=1", "a\"b"}) {
    EXPECT_FALSE(IsValidAdapterId(id)) << id;
  }
  EXPECT_FALSE(IsValidAdapterId(std::string(129, 'x')));
  EXPECT_FALSE(IsValidAdapterId(absl::string_view("a\0b", 3)));
}

TEST(AdapterIdTest, SuggestsAValidNeighbour) {
  EXPECT_EQ(SuggestAdapterId("my style é"), "my-style");
  EXPECT_EQ(SuggestAdapterId("  (ink)  wash!"), "ink-wash");
  EXPECT_EQ(SuggestAdapterId("...v2"), "v2");
  EXPECT_EQ(SuggestAdapterId("日本"), "adapter");
  EXPECT_EQ(SuggestAdapterId(""), "adapter");
  EXPECT_EQ(SuggestAdapterId(std::string(200, 'y')), std::string(128, 'y'));
}

TEST(AdapterIdTest, SuggestionsAreValid) {
  for (const char* text : {"x -", "\xff\xfe", "a--", "\n", "é à ü", "#1"}) {
    EXPECT_TRUE(IsValidAdapterId(SuggestAdapterId(text))) << text;
  }
}

TEST(AdapterIdTest, TheNameIsTheStemUnlessGiven) {
  EXPECT_THAT(ChooseAdapterId("", "styles/ink.v2.safetensors"),
              IsOkAndHolds("ink.v2"));
  EXPECT_THAT(ChooseAdapterId("", "ink.safetensors"), IsOkAndHolds("ink"));
  EXPECT_THAT(ChooseAdapterId("pen", "styles/ink.safetensors"),
              IsOkAndHolds("pen"));
}

TEST(AdapterIdTest, ABadStemIsRefusedWithANameToUse) {
  const auto id = ChooseAdapterId("", "a/my style é.safetensors");
  EXPECT_THAT(id, HasReason(ErrorReason::kInvalidField,
                            HasSubstr("for example \"my-style\"")));
  EXPECT_THAT(GetErrorMetadata(id.status()),
              testing::Contains(Pair("field", "name")));
}

TEST(AdapterIdTest, ABadNameIsRefusedThoughTheStemIsGood) {
  EXPECT_THAT(ChooseAdapterId("a b", "ink.safetensors"),
              HasReason(ErrorReason::kInvalidField, HasSubstr("\"a-b\"")));
}

}  // namespace
}  // namespace graft
