#include "server/common/json_depth.h"

#include <string>

#include "gtest/gtest.h"

namespace graft {
namespace {

TEST(JsonDepthTest, IsThatOfTheDeepestValue) {
  EXPECT_EQ(JsonDepth(""), 0);
  EXPECT_EQ(JsonDepth("7"), 0);
  EXPECT_EQ(JsonDepth("{}"), 1);
  EXPECT_EQ(JsonDepth(R"({"a": [1, [2]], "b": {}})"), 3);
  EXPECT_EQ(JsonDepth(std::string(100000, '[')), 100000);
}

TEST(JsonDepthTest, BracketsInTextsAreNone) {
  EXPECT_EQ(JsonDepth(R"({"[[[": "{{{"})"), 1);
  EXPECT_EQ(JsonDepth(R"({"a\"[[": "\\", "b": [1]})"), 2);
}

TEST(JsonDepthTest, TakesWhatIsNoJson) {
  EXPECT_EQ(JsonDepth("]]]["), 0);
  EXPECT_EQ(JsonDepth("\"\\"), 0);
}

}  // namespace
}  // namespace graft
