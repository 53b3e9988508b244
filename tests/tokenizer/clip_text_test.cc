#include "server/tokenizer/clip_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NormalizeClipTextTest, ComposesCollapsesSpacesAndLowers) {
  EXPECT_EQ(NormalizeClipText("CAFE\u0301 \t\r\n\u3000 X"), "caf\u00e9 x");
  EXPECT_EQ(NormalizeClipText("  a  "), " a ");
  EXPECT_EQ(NormalizeClipText(""), "");
}

TEST(NormalizeClipTextTest, ZeroWidthSpaceIsNoSpace) {
  EXPECT_EQ(NormalizeClipText("a\u200bb"), "a\u200bb");
}

// Rust's char::to_lowercase: İ becomes two characters, and Σ at the end of a
// word stays an inner sigma.
TEST(NormalizeClipTextTest, LowersCharacterByCharacter) {
  EXPECT_EQ(NormalizeClipText("\u0130"), "i\u0307");
  EXPECT_EQ(NormalizeClipText("\u039f\u03a3"), "\u03bf\u03c3");
  EXPECT_EQ(NormalizeClipText("\u1e9e"), "\u00df");
}

TEST(NormalizeClipTextTest, LowersCasesOfLaterUnicodeVersions) {
  EXPECT_EQ(NormalizeClipText("\u1c89"), "\u1c8a");          // 16.0
  EXPECT_EQ(NormalizeClipText("\ua7cb"), "\u0264");          // 16.0
  EXPECT_EQ(NormalizeClipText("\U00010d65"), "\U00010d85");  // 16.0
  EXPECT_EQ(NormalizeClipText("\U00016ea0"), "\U00016ebb");  // 17.0
}

// U+0316 (class 220) goes before U+0345 (240); U+1DF6 (228) would too, but is
// of Unicode 10, and the reference composes by Unicode 9.
TEST(NormalizeClipTextTest, OrdersMarksAsUnicode9) {
  EXPECT_EQ(NormalizeClipText("x\u0345\u0316"), "x\u0316\u0345");
  EXPECT_EQ(NormalizeClipText("x\u0345\u1df6"), "x\u0345\u1df6");
}

TEST(SplitClipWordsTest, SplitsByKind) {
  EXPECT_THAT(SplitClipWords("a photo, of 42 cats!!"),
              ElementsAre("a", "photo", ",", "of", "4", "2", "cats", "!!"));
  EXPECT_THAT(SplitClipWords("\u6f22\u5b57\u00bd\u2764\ufe0fx"),
              ElementsAre("\u6f22\u5b57", "\u00bd", "\u2764\ufe0f", "x"));
  EXPECT_THAT(SplitClipWords("   "), IsEmpty());
}

TEST(SplitClipWordsTest, CutsEnglishEndings) {
  EXPECT_THAT(SplitClipWords("it's we'll they've 'dog"),
              ElementsAre("it", "'s", "we", "'ll", "they", "'ve", "'d", "og"));
  EXPECT_THAT(SplitClipWords("!'s"), ElementsAre("!'", "s"));
  EXPECT_THAT(SplitClipWords("'x"), ElementsAre("'", "x"));
}

TEST(SplitClipWordsTest, AMarkerStandsApartFromItsNeighbours) {
  EXPECT_THAT(SplitClipWords("<|startoftext|>!"),
              ElementsAre("<|", "startoftext", "|>", "!"));
  EXPECT_THAT(SplitClipWords("!<|startoftext|>!"),
              ElementsAre("!<|", "startoftext", "|>!"));
}

TEST(SplitClipWordsTest, KnowsLettersOfLaterUnicodeVersions) {
  EXPECT_THAT(SplitClipWords("!\U00016d40!"),  // 16.0
              ElementsAre("!", "\U00016d40", "!"));
  EXPECT_THAT(SplitClipWords("!\U000323b0!"),  // 17.0: the reference has 16.0
              ElementsAre("!\U000323b0!"));
}

}  // namespace
}  // namespace graft
