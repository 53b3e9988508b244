#include "server/tokenizer/added_tokens.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

std::vector<std::pair<std::string, int32_t>> Split(
    const AddedTokenFinder& finder, absl::string_view text) {
  std::vector<std::pair<std::string, int32_t>> pieces;
  for (const AddedTokenFinder::Piece& piece : finder.Split(text)) {
    pieces.emplace_back(std::string(piece.text), piece.id);
  }
  return pieces;
}

TEST(AddedTokenFinderTest, WithoutTokensTheTextIsOnePiece) {
  EXPECT_THAT(Split(AddedTokenFinder(), "a b"), ElementsAre(Pair("a b", -1)));
  EXPECT_THAT(Split(AddedTokenFinder(), ""), IsEmpty());
}

TEST(AddedTokenFinderTest, CutsAtTokens) {
  AddedTokenFinder finder;
  finder.Add("<x>", 7);
  EXPECT_THAT(Split(finder, "a<x>b"),
              ElementsAre(Pair("a", -1), Pair("<x>", 7), Pair("b", -1)));
  EXPECT_THAT(Split(finder, "<x><x>"),
              ElementsAre(Pair("<x>", 7), Pair("<x>", 7)));
  EXPECT_THAT(Split(finder, "<<x"), ElementsAre(Pair("<<x", -1)));
}

TEST(AddedTokenFinderTest, TheLeftmostThenTheLongestWins) {
  AddedTokenFinder finder;
  finder.Add("ab", 1);
  finder.Add("abc", 2);
  finder.Add("bcd", 3);
  EXPECT_THAT(Split(finder, "abcd"),
              ElementsAre(Pair("abc", 2), Pair("d", -1)));
  EXPECT_THAT(Split(finder, "abd"), ElementsAre(Pair("ab", 1), Pair("d", -1)));
}

TEST(AddedTokenFinderTest, EmptyAndRepeatedContentsChangeNothing) {
  AddedTokenFinder finder;
  finder.Add("", 1);
  finder.Add("a", 2);
  finder.Add("a", 3);
  EXPECT_THAT(Split(finder, "ba"), ElementsAre(Pair("b", -1), Pair("a", 2)));
}

}  // namespace
}  // namespace graft
