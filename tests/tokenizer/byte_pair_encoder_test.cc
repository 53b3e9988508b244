#include "server/tokenizer/byte_pair_encoder.h"

#include <chrono>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kUnknown = 99;

BytePairEncoder Make(Vocabulary vocabulary, const Merges& merges) {
  vocabulary.emplace("?", kUnknown);
  auto encoder = BytePairEncoder::Create(vocabulary, merges, "?");
  EXPECT_THAT(encoder, IsOk());
  return *std::move(encoder);
}

std::vector<int32_t> Encode(const BytePairEncoder& encoder,
                            absl::string_view word) {
  std::vector<int32_t> ids;
  encoder.Encode(word, ids);
  return ids;
}

TEST(BytePairEncoderTest, TheLastByteEndsTheWord) {
  const auto encoder = Make({{"a", 0}, {"a</w>", 1}}, {});
  EXPECT_THAT(Encode(encoder, "aaa"), ElementsAre(0, 0, 1));
  EXPECT_THAT(Encode(encoder, "a"), ElementsAre(1));
  EXPECT_THAT(Encode(encoder, ""), IsEmpty());
}

TEST(BytePairEncoderTest, LowestRankGoesFirst) {
  const Vocabulary vocabulary = {{"a", 0},      {"b", 1},  {"c</w>", 2},
                                 {"bc</w>", 3}, {"ab", 4}, {"abc</w>", 5}};
  EXPECT_THAT(Encode(Make(vocabulary, {{"b", "c</w>"}, {"a", "b"}}), "abc"),
              ElementsAre(0, 3));
  EXPECT_THAT(Encode(Make(vocabulary, {{"a", "b"}, {"b", "c</w>"}}), "abc"),
              ElementsAre(4, 2));
  EXPECT_THAT(
      Encode(Make(vocabulary, {{"a", "b"}, {"b", "c</w>"}, {"ab", "c</w>"}}),
             "abc"),
      ElementsAre(5));
}

TEST(BytePairEncoderTest, OfEqualRanksTheLeftmostGoesFirst) {
  const auto encoder = Make({{"a", 0}, {"a</w>", 1}, {"aa", 2}}, {{"a", "a"}});
  EXPECT_THAT(Encode(encoder, "aaaa"), ElementsAre(2, 0, 1));
}

TEST(BytePairEncoderTest, OtherBytesAreSpeltInThePrintableAlphabet) {
  // U+00E9 is C3 A9 in UTF-8: "Ã", "©". Space is "Ġ", U+0120.
  const auto encoder =
      Make({{"\u00c3", 0}, {"\u00a9</w>", 1}, {"\u0120", 2}}, {});
  EXPECT_THAT(Encode(encoder, "\u00e9"), ElementsAre(0, 1));
  EXPECT_THAT(Encode(encoder, " \u00e9"), ElementsAre(2, 0, 1));
}

TEST(BytePairEncoderTest, EachMissingByteIsUnknown) {
  const auto encoder = Make({{"a", 0}}, {});
  EXPECT_THAT(Encode(encoder, "axxa"),
              ElementsAre(0, kUnknown, kUnknown, kUnknown));
}

TEST(BytePairEncoderTest, APairListedTwiceCountsByItsLastPlace) {
  const Vocabulary vocabulary = {
      {"a", 0}, {"b", 1}, {"c</w>", 2}, {"bc</w>", 3}, {"ab", 4}};
  EXPECT_THAT(
      Encode(Make(vocabulary, {{"a", "b"}, {"b", "c</w>"}, {"a", "b"}}), "abc"),
      ElementsAre(0, 3));
}

TEST(BytePairEncoderTest, MissingEntriesAreNamed) {
  const auto reason = [](absl::string_view token) {
    return HasReason(ErrorReason::kModelUnsupported,
                     HasSubstr(std::string(token)));
  };
  EXPECT_THAT(BytePairEncoder::Create({}, {}, "<unk>").status(),
              reason("\"<unk>\""));
  EXPECT_THAT(
      BytePairEncoder::Create({{"?", 0}, {"a", 1}}, {{"a", "b"}}, "?").status(),
      reason("\"b\""));
  EXPECT_THAT(
      BytePairEncoder::Create({{"?", 0}, {"a", 1}, {"b", 2}}, {{"a", "b"}}, "?")
          .status(),
      reason("\"ab\""));
}

// A quadratic encoder would take minutes. The bound is generous: sanitizers.
TEST(BytePairEncoderTest, AWordOfAMillionLettersIsFast) {
  const auto encoder = Make({{"a", 0}, {"a</w>", 1}, {"aa", 2}, {"aaaa", 3}},
                            {{"a", "a"}, {"aa", "aa"}});
  const auto start = std::chrono::steady_clock::now();
  const auto ids = Encode(encoder, std::string(1000001, 'a'));
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - start;
  EXPECT_THAT(ids, SizeIs(250001));
  EXPECT_LT(elapsed.count(), 20.0);
}

}  // namespace
}  // namespace graft
