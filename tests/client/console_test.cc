#include "client/console.h"

#include "gtest/gtest.h"

namespace graft {
namespace {

TEST(ConsoleTest, FloatsAreShownAsTheyWereWritten) {
  EXPECT_EQ(FormatFloat(0.8f), "0.8");
  EXPECT_EQ(FormatFloat(-8.0f), "-8");
  EXPECT_EQ(AsWritten(0.8f), 0.8);
  EXPECT_EQ(AsWritten(-7.5f), -7.5);
}

TEST(ConsoleTest, BytesHaveAFittingUnit) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(int64_t{3} << 40), "3.0 TiB");
  EXPECT_EQ(FormatBytes(int64_t{3} << 50), "3072.0 TiB");
}

TEST(ConsoleTest, TimesHaveAFittingUnit) {
  EXPECT_EQ(FormatMilliseconds(0), "0.0 ms");
  EXPECT_EQ(FormatMilliseconds(999.94), "999.9 ms");
  EXPECT_EQ(FormatMilliseconds(12345), "12.35 s");
}

}  // namespace
}  // namespace graft
