#include "server/safetensors/safetensors_file.h"

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

std::string LengthPrefix(uint64_t length) {
  std::string prefix;
  for (int i = 0; i < 8; ++i) prefix += static_cast<char>(length >> (8 * i));
  return prefix;
}

// A file with this header and `data_size` bytes 0, 1, 2...
std::string FileBytes(const std::string& header, size_t data_size) {
  std::string bytes = LengthPrefix(header.size()) + header;
  for (size_t i = 0; i < data_size; ++i) bytes += static_cast<char>(i);
  return bytes;
}

absl::StatusOr<SafetensorsFile> ParseBytes(
    const std::string& bytes,
    const SafetensorsFile::Limits& limits = SafetensorsFile::Limits()) {
  const auto owner = std::make_shared<const std::string>(bytes);
  return SafetensorsFile::Parse(
      owner,
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(owner->data()),
                          owner->size()),
      "cat.safetensors", limits);
}

absl::StatusOr<SafetensorsFile> ParseHeader(const std::string& header,
                                            size_t data_size) {
  return ParseBytes(FileBytes(header, data_size));
}

// One tensor "t" with these JSON values.
std::string Entry(const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("{\"t\":{\"dtype\":", dtype, ",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}}");
}

// Two U8 tensors "a" and "b" of these ranges.
std::string TwoEntries(int begin_a, int end_a, int begin_b, int end_b) {
  return absl::StrCat("{\"a\":{\"dtype\":\"U8\",\"shape\":[", end_a - begin_a,
                      "],\"data_offsets\":[", begin_a, ",", end_a,
                      "]},\"b\":{\"dtype\":\"U8\",\"shape\":[", end_b - begin_b,
                      "],\"data_offsets\":[", begin_b, ",", end_b, "]}}");
}

// ---- What is accepted -------------------------------------------------------

TEST(SafetensorsFileTest, ReadsTensorsByName) {
  const auto file = ParseHeader(
      "{\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[4,12]},"
      "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
      12);
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->tensors(), SizeIs(2));
  const TensorView& a = file->tensors().at("a");
  EXPECT_EQ(a.dtype, TensorDtype::kBF16);
  EXPECT_THAT(a.shape, ElementsAre(2));
  EXPECT_THAT(a.bytes, ElementsAre(0, 1, 2, 3));
  const TensorView& b = file->tensors().at("b");
  EXPECT_EQ(b.dtype, TensorDtype::kF32);
  EXPECT_THAT(b.shape, ElementsAre(1, 2));
  EXPECT_THAT(b.bytes, ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_THAT(file->metadata(), IsEmpty());
}

TEST(SafetensorsFileTest, ReadsMetadata) {
  const auto file = ParseHeader(
      "{\"__metadata__\":{\"ss_network_dim\":\"8\",\"note\":\"\\u00e9\"}}", 0);
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(file->tensors(), IsEmpty());
  EXPECT_THAT(file->metadata(),
              ElementsAre(Pair("note", "\u00e9"), Pair("ss_network_dim", "8")));
}

TEST(SafetensorsFileTest, ViewsPointIntoTheBytes) {
  const auto owner = std::make_shared<std::string>(
      FileBytes(Entry("\"U8\"", "[3]", "[0,3]"), 3));
  const auto file = SafetensorsFile::Parse(
      owner,
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(owner->data()),
                          owner->size()),
      "x", {});
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->tensors().at("t").bytes.end(),
            reinterpret_cast<const uint8_t*>(owner->data()) + owner->size());
}

TEST(SafetensorsFileTest, KeepsItsOwnerAlive) {
  auto owner = std::make_shared<const std::string>(
      FileBytes(Entry("\"U8\"", "[1]", "[0,1]"), 1));
  const std::weak_ptr<const std::string> watched = owner;
  {
    const absl::Span<const uint8_t> bytes(
        reinterpret_cast<const uint8_t*>(owner->data()), owner->size());
    const auto file = SafetensorsFile::Parse(std::move(owner), bytes, "x", {});
    ASSERT_THAT(file, IsOk());
    EXPECT_FALSE(watched.expired());
  }
  EXPECT_TRUE(watched.expired());
}

struct GoodHeader {
  std::string what;
  std::string header;
  size_t data_size;
};

class GoodHeaderTest : public testing::TestWithParam<GoodHeader> {};

TEST_P(GoodHeaderTest, IsAccepted) {
  EXPECT_THAT(ParseHeader(GetParam().header, GetParam().data_size), IsOk());
}

std::vector<GoodHeader> GoodHeaders() {
  return {
      {"NoTensors", "{}", 0},
      {"PaddedWithSpaces", Entry("\"U8\"", "[1]", "[0,1]") + "      ", 1},
      {"PaddedWithOtherBlanks", "{} \t\r\n", 0},
      {"Scalar", Entry("\"F32\"", "[]", "[0,4]"), 4},
      {"EmptyTensor", Entry("\"F32\"", "[3,0]", "[0,0]"), 0},
      {"EmptyTensorFirst", TwoEntries(0, 0, 0, 4), 4},
      {"EmptyTensorLast", TwoEntries(0, 4, 4, 4), 4},
      {"EmptyDimensionBeforeHugeOnes",
       Entry("\"F32\"", "[0,4611686018427387904,4]", "[0,0]"), 0},
      {"OrderOfKeysIsFree", TwoEntries(3, 5, 0, 3), 5},
      {"SurplusFieldsAreIgnored",
       "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],"
       "\"x\":[{}],\"y\":null,\"z\":-1.5,\"w\":{\"v\":[]},\"u\":\"s\"}}",
       1},
      {"EmptyMetadata", "{\"__metadata__\":{}}", 0},
      {"NullMetadata", "{\"__metadata__\":null}", 0},
      {"EmptyName",
       "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1},
      {"NotAligned",
       "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
       "\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]}}",
       9},
  };
}

INSTANTIATE_TEST_SUITE_P(Cases, GoodHeaderTest,
                         testing::ValuesIn(GoodHeaders()),
                         [](const auto& info) { return info.param.what; });

// ---- What is refused --------------------------------------------------------

struct BadFile {
  std::string what;
  std::string bytes;
  std::string problem;
};

class BadFileTest : public testing::TestWithParam<BadFile> {};

TEST_P(BadFileTest, IsRefusedWithItsCause) {
  EXPECT_THAT(ParseBytes(GetParam().bytes),
              HasReason(ErrorReason::kAdapterCorrupt,
                        AllOf(HasSubstr("cat.safetensors"),
                              HasSubstr(GetParam().problem))));
}

std::vector<BadFile> BadContainers() {
  return {
      {"Empty", "", "only 0 bytes"},
      {"SevenBytes", std::string(7, '\0'), "only 7 bytes"},
      {"NoHeader", LengthPrefix(0), "does not begin with '{'"},
      {"HeaderLongerThanTheFile", LengthPrefix(3) + "{}",
       "a header of 3 bytes in a file of 10"},
      {"HeaderAboveTheLimit", LengthPrefix((8 << 20) + 1) + "{}",
       "the limit is 8388608"},
      {"LengthNearlyWraps", LengthPrefix(UINT64_MAX) + "{}", "the limit is"},
      {"LengthPlusEightWraps", LengthPrefix(UINT64_MAX - 7) + "{}",
       "the limit is"},
      {"Pickle", std::string("\x80\x02}q\x00.", 6) + "XXXXXXXX", "limit"},
      {"WebPage", "<!DOCTYPE html><html></html>", "limit"},
      {"ByteOrderMark", FileBytes("\xef\xbb\xbf{}", 0), "begin with '{'"},
      {"BlanksAlone", FileBytes("  ", 0), "begin with '{'"},
      {"FormFeedFirst", FileBytes("\f{}", 0), "begin with '{'"},
      {"MarkAfterABlank", FileBytes(" \xef\xbb\xbf{}", 0), "begin with '{'"},
      {"Array", FileBytes("[]", 0), "begin with '{'"},
      {"NulPadding", FileBytes(std::string("{}\0\0", 4), 0), "NUL byte"},
      {"NulInTheMiddle", FileBytes(std::string("{\0}", 3), 0), "NUL byte"},
      {"TextAfterTheObject", FileBytes("{}{}", 0), "not valid UTF-8 JSON"},
      {"Cut", FileBytes("{\"t\":{\"dty", 0), "not valid UTF-8 JSON"},
      {"TrailingComma", FileBytes("{\"__metadata__\":{},}", 0), "JSON"},
      {"Comment", FileBytes("{/**/}", 0), "JSON"},
      {"SingleQuotes", FileBytes("{'t':1}", 0), "JSON"},
      {"InvalidUtf8InAName", FileBytes("{\"\xff\":1}", 0), "UTF-8"},
      {"OverlongUtf8InAName", FileBytes("{\"\xc0\xaf\":1}", 0), "UTF-8"},
      {"SurrogateInAName", FileBytes("{\"\xed\xa0\x80\":1}", 0), "UTF-8"},
      {"LoneSurrogateEscape", FileBytes("{\"\\ud800\":1}", 0), "UTF-8"},
      {"ControlCharacterInAName", FileBytes("{\"a\nb\":1}", 0), "JSON"},
      {"EscapedNulInAName", FileBytes("{\"a\\u0000b\":{}}", 0), "NUL"},
      {"FiveDeep", FileBytes("{\"t\":{\"x\":[[[]]],\"dtype\":\"U8\"}}", 0),
       "nested deeper than 4"},
      {"VeryDeep", FileBytes("{\"t\":{\"x\":" + std::string(1000000, '['), 0),
       "nested deeper than 4"},
      {"VeryDeepObjects",
       FileBytes(
           [] {
             std::string text;
             for (int i = 0; i < 100000; ++i) text += "{\"a\":";
             return text;
           }(),
           0),
       "nested deeper than 4"},
      {"BytesAfterTheTensors", FileBytes(Entry("\"U8\"", "[1]", "[0,1]"), 2),
       "1 bytes that belong to no tensor"},
      {"BytesButNoTensor", FileBytes("{}", 1), "belong to no tensor"},
  };
}

INSTANTIATE_TEST_SUITE_P(Containers, BadFileTest,
                         testing::ValuesIn(BadContainers()),
                         [](const auto& info) { return info.param.what; });

std::vector<BadFile> BadMetadata() {
  const auto metadata = [](const std::string& value) {
    return FileBytes("{\"__metadata__\":" + value + "}", 0);
  };
  return {
      {"String", metadata("\"x\""), "\"__metadata__\": described by a string"},
      {"Array", metadata("[]"), "an array, not an object"},
      {"NumberInside", metadata("{\"k\":1}"),
       "value of \"k\" is a number, not a string"},
      {"NullInside", metadata("{\"k\":null}"), "null, not a string"},
      {"ObjectInside", metadata("{\"k\":{}}"), "an object, not a string"},
      {"ArrayInside", metadata("{\"k\":[]}"), "an array, not a string"},
      {"KeyTwice", metadata("{\"k\":\"1\",\"k\":\"1\"}"), "appears twice"},
      {"Twice", FileBytes("{\"__metadata__\":{},\"__metadata__\":{}}", 0),
       "twice"},
      {"NulInAKey", metadata("{\"\\u0000\":\"1\"}"), "NUL"},
      {"NulInAValue", metadata("{\"k\":\"\\u0000\"}"), "NUL"},
      {"InvalidUtf8", metadata("{\"k\":\"\xfe\"}"), "UTF-8"},
  };
}

INSTANTIATE_TEST_SUITE_P(Metadata, BadFileTest,
                         testing::ValuesIn(BadMetadata()),
                         [](const auto& info) { return info.param.what; });

std::vector<BadFile> BadEntries() {
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets, size_t data_size) {
    return FileBytes(Entry(dtype, shape, offsets), data_size);
  };
  const std::string u8 = "\"U8\"";
  return {
      {"NotAnObject", FileBytes("{\"t\":5}", 0), "described by a number"},
      {"IsNull", FileBytes("{\"t\":null}", 0), "described by null"},
      {"IsAnArray", FileBytes("{\"t\":[]}", 0), "described by an array"},
      {"NoFields", FileBytes("{\"t\":{}}", 0), "\"dtype\" is missing"},
      {"NoDtype",
       FileBytes("{\"t\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1),
       "\"dtype\" is missing"},
      {"NoShape",
       FileBytes("{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1),
       "\"shape\" is missing"},
      {"NoOffsets", FileBytes("{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1),
       "\"data_offsets\" is missing"},
      {"FieldTwice",
       FileBytes("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],"
                 "\"data_offsets\":[0,1]}}",
                 1),
       "field \"dtype\" appears twice"},
      {"SurplusFieldTwice",
       FileBytes("{\"t\":{\"x\":1,\"x\":1,\"dtype\":\"U8\",\"shape\":[1],"
                 "\"data_offsets\":[0,1]}}",
                 1),
       "field \"x\" appears twice"},
      {"TensorTwice",
       FileBytes("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"
                 "},\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,"
                 "1]}}",
                 1),
       "listed twice"},
      {"UnknownDtype", entry("\"F128\"", "[1]", "[0,16]", 16),
       "dtype \"F128\" is not supported"},
      {"LowerCaseDtype", entry("\"f32\"", "[1]", "[0,4]", 4), "\"f32\""},
      {"SubByteDtype", entry("\"F4\"", "[2]", "[0,1]", 1), "\"F4\""},
      {"DtypeIsANumber", entry("32", "[1]", "[0,4]", 4),
       "\"dtype\" is a number"},
      {"DtypeIsNull", entry("null", "[1]", "[0,4]", 4), "\"dtype\" is null"},
      {"ShapeIsANumber", entry(u8, "1", "[0,1]", 1), "\"shape\" is a number"},
      {"ShapeIsAnObject", entry(u8, "{}", "[0,1]", 1),
       "\"shape\" is an object"},
      {"NegativeDimension", entry(u8, "[-1]", "[0,1]", 1), "negative number"},
      {"NegativeZeroDimension", entry(u8, "[-0]", "[0,0]", 0),
       "negative number"},
      {"FractionalDimension", entry(u8, "[1.0]", "[0,1]", 1),
       "no 64-bit integer"},
      {"ExponentDimension", entry(u8, "[1e0]", "[0,1]", 1),
       "no 64-bit integer"},
      {"StringDimension", entry(u8, "[\"1\"]", "[0,1]", 1),
       "shape has a string"},
      {"NestedShape", entry(u8, "[[1]]", "[0,1]", 1), "shape has an array"},
      {"DimensionAbove64Bits", entry(u8, "[18446744073709551616]", "[0,0]", 0),
       "no 64-bit integer"},
      {"DimensionAbove63Bits", entry(u8, "[9223372036854775808,0]", "[0,0]", 0),
       "is too large"},
      {"ProductWraps", entry(u8, "[4294967296,4294967296]", "[0,0]", 0),
       "larger than any"},
      {"ProductWrapsOnItsWayToZero",
       entry(u8, "[4611686018427387904,2,0]", "[0,0]", 0), "larger than any"},
      {"ProductWrapsToTheRange",
       entry(u8, "[4294967297,4294967297]", "[0,8589934593]", 1),
       "larger than any"},
      {"BytesWrap", entry("\"F64\"", "[2305843009213693952]", "[0,0]", 0),
       "larger than any"},
      {"SixtyFiveDimensions",
       entry(
           u8,
           "[" +
               [] {
                 std::string ones = "1";
                 for (int i = 0; i < 64; ++i) ones += ",1";
                 return ones;
               }() +
               "]",
           "[0,1]", 1),
       "more than 64 dimensions"},
      {"NoOffset", entry(u8, "[1]", "[]", 1), "must be two integers"},
      {"OneOffset", entry(u8, "[1]", "[0]", 1), "must be two integers"},
      {"ThreeOffsets", entry(u8, "[1]", "[0,1,1]", 1), "must be two integers"},
      {"OffsetsAreAnObject", entry(u8, "[1]", "{}", 1),
       "\"data_offsets\" is an object"},
      {"NegativeOffset", entry(u8, "[1]", "[-1,0]", 1), "negative number"},
      {"FractionalOffset", entry(u8, "[1]", "[0,1.5]", 1), "no 64-bit integer"},
      {"StringOffset", entry(u8, "[1]", "[0,\"1\"]", 1), "a string"},
      {"EndBeforeBegin", entry(u8, "[1]", "[1,0]", 1), "ends before it begins"},
      {"RangeTooSmall", entry("\"F32\"", "[2]", "[0,4]", 4),
       "need 8 bytes, its range has 4"},
      {"RangeTooLarge", entry("\"F32\"", "[1]", "[0,8]", 8),
       "need 4 bytes, its range has 8"},
      {"EmptyTensorWithBytes", entry(u8, "[0]", "[0,1]", 1), "need 0 bytes"},
      {"RangeBeyondTheData", entry(u8, "[4]", "[0,4]", 3),
       "ends at 4, but 3 bytes"},
      {"RangeFarBeyondTheData",
       entry(u8, "[9223372036854775807]", "[0,9223372036854775807]", 1),
       "ends at 9223372036854775807"},
      {"GapAtTheStart", entry(u8, "[1]", "[1,2]", 2), "with a gap before it"},
      {"GapInTheMiddle", FileBytes(TwoEntries(0, 1, 2, 3), 3),
       "tensor \"b\": its range begins at 2, with a gap"},
      {"Overlap", FileBytes(TwoEntries(0, 2, 1, 3), 3),
       "tensor \"b\": its range begins at 1, inside another"},
      {"SameRangeTwice", FileBytes(TwoEntries(0, 2, 0, 2), 2),
       "inside another"},
      {"EmptyTensorInsideAnother", FileBytes(TwoEntries(0, 2, 1, 1), 2),
       "inside another"},
  };
}

INSTANTIATE_TEST_SUITE_P(Entries, BadFileTest, testing::ValuesIn(BadEntries()),
                         [](const auto& info) { return info.param.what; });

TEST(SafetensorsFileTest, ErrorsNameTheTensorInTheMetadata) {
  EXPECT_THAT(GetErrorMetadata(
                  ParseHeader("{\"x\\n\":{\"dtype\":\"F128\"}}", 0).status()),
              ElementsAre(Pair("tensor", "x\\x0a")));
}

TEST(SafetensorsFileTest, ErrorsOfTheContainerNameNoTensor) {
  EXPECT_THAT(GetErrorMetadata(ParseBytes("").status()), IsEmpty());
}

// As the reference reader, though the format says otherwise.
TEST(SafetensorsFileTest, BlanksBeforeAndAfterTheHeaderAreSkipped) {
  EXPECT_THAT(ParseBytes(FileBytes(" \t\r\n{} \t\r\n", 0)), IsOk());
}

TEST(SafetensorsFileTest, HeaderLimitIsInclusive) {
  const std::string bytes = FileBytes("{}" + std::string(98, ' '), 0);
  EXPECT_THAT(ParseBytes(bytes, {.max_header_bytes = 100}), IsOk());
  EXPECT_THAT(ParseBytes(bytes, {.max_header_bytes = 99}),
              HasReason(ErrorReason::kAdapterCorrupt,
                        HasSubstr("100 bytes; the limit is 99")));
}

TEST(SafetensorsFileTest, EveryTruncationIsRefused) {
  const std::string bytes = FileBytes(TwoEntries(0, 3, 3, 5), 5);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THAT(ParseBytes(bytes.substr(0, size)),
                HasReason(ErrorReason::kAdapterCorrupt))
        << size;
  }
}

// ---- Map --------------------------------------------------------------------

class SafetensorsMapTest : public testing::Test {
 protected:
  SafetensorsMapTest()
      : folder_(std::filesystem::path(testing::TempDir()) /
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::create_directories(folder_);
  }
  ~SafetensorsMapTest() override { std::filesystem::remove_all(folder_); }

  std::string Path() const { return (folder_ / "base.safetensors").string(); }
  void Write(const std::string& bytes) {
    std::ofstream(Path(), std::ios::binary) << bytes;
  }

  // Expects MODEL_UNSUPPORTED with the path and `problem`.
  void ExpectUnsupported(const std::string& problem) {
    EXPECT_THAT(SafetensorsFile::Map(Path(), {}),
                HasReason(ErrorReason::kModelUnsupported,
                          AllOf(HasSubstr(Path()), HasSubstr(problem))));
  }

 private:
  const std::filesystem::path folder_;
};

TEST_F(SafetensorsMapTest, ReadsAFile) {
  Write(FileBytes(Entry("\"U8\"", "[3]", "[0,3]"), 3));
  const auto file = SafetensorsFile::Map(Path(), {});
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(file->tensors().at("t").bytes, ElementsAre(0, 1, 2));
}

TEST_F(SafetensorsMapTest, TheOwnerOutlivesTheFileObject) {
  Write(FileBytes(Entry("\"U8\"", "[3]", "[0,3]"), 3));
  std::shared_ptr<const void> owner;
  absl::Span<const uint8_t> bytes;
  {
    const auto file = SafetensorsFile::Map(Path(), {});
    ASSERT_THAT(file, IsOk());
    owner = file->owner();
    bytes = file->tensors().at("t").bytes;
  }
  std::filesystem::remove(Path());
  EXPECT_THAT(bytes, ElementsAre(0, 1, 2));
}

TEST_F(SafetensorsMapTest, AMissingFileIsNotFound) {
  EXPECT_THAT(SafetensorsFile::Map(Path(), {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(Path())));
}

TEST_F(SafetensorsMapTest, ADamagedFileIsAnUnsupportedModel) {
  Write(FileBytes(Entry("\"U8\"", "[3]", "[0,3]"), 2));
  ExpectUnsupported("tensor \"t\"");
}

TEST_F(SafetensorsMapTest, AnEmptyFileIsAnUnsupportedModel) {
  Write("");
  ExpectUnsupported("empty");
}

TEST_F(SafetensorsMapTest, AFolderIsAnUnsupportedModel) {
  std::filesystem::create_directory(Path());
  ExpectUnsupported("not a regular file");
}

TEST_F(SafetensorsMapTest, AFifoDoesNotBlock) {
  ASSERT_EQ(mkfifo(Path().c_str(), 0600), 0);
  ExpectUnsupported("not a regular file");
}

}  // namespace
}  // namespace graft
