#include "server/image/png_encoder.h"

#include <png.h>

#include <csetjmp>
#include <cstdint>
#include <cstring>
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

struct TextChunk {
  int kind = 0;  // libpng's: PNG_TEXT_COMPRESSION_NONE is tEXt
  std::string keyword;
  std::string text;

  bool operator==(const TextChunk& other) const {
    return kind == other.kind && keyword == other.keyword && text == other.text;
  }
};

struct Decoded {
  Image image;
  std::vector<TextChunk> text;
  int bit_depth = 0;
  int color_type = 0;
  int interlace = -1;
  bool has_time = true;
};

struct Source {
  const std::string& bytes;
  size_t position = 0;
};

void ReadBytes(png_structp png, png_bytep to, size_t size) {
  auto* const source = static_cast<Source*>(png_get_io_ptr(png));
  if (source->bytes.size() - source->position < size) {
    png_error(png, "file too short");
  }
  std::memcpy(to, source->bytes.data() + source->position, size);
  source->position += size;
}

// Fills `decoded`; false if libpng finds a fault. All objects with destructors
// are the caller's: libpng leaves by longjmp.
bool Decode(png_structp png, png_infop info, std::vector<png_bytep>& rows,
            Decoded& decoded) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_read_info(png, info);
  Image& image = decoded.image;
  image.width = static_cast<int>(png_get_image_width(png, info));
  image.height = static_cast<int>(png_get_image_height(png, info));
  decoded.bit_depth = png_get_bit_depth(png, info);
  decoded.color_type = png_get_color_type(png, info);
  decoded.interlace = png_get_interlace_type(png, info);
  image.rgb.resize(png_get_rowbytes(png, info) * image.height);
  for (int y = 0; y < image.height; ++y) {
    rows.push_back(image.rgb.data() + y * png_get_rowbytes(png, info));
  }
  png_read_image(png, rows.data());
  png_read_end(png, info);
  decoded.has_time = png_get_valid(png, info, PNG_INFO_tIME) != 0;
  png_textp text = nullptr;
  const int count = png_get_text(png, info, &text, nullptr);
  for (int i = 0; i < count; ++i) {
    decoded.text.push_back({text[i].compression, text[i].key, text[i].text});
  }
  return true;
}

Decoded DecodePng(const std::string& bytes) {
  png_structp png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  Source source{bytes};
  png_set_read_fn(png, &source, &ReadBytes);
  Decoded decoded;
  std::vector<png_bytep> rows;
  EXPECT_TRUE(Decode(png, info, rows, decoded));
  EXPECT_EQ(source.position, bytes.size());
  png_destroy_read_struct(&png, &info, nullptr);
  return decoded;
}

Image Pattern(int width, int height) {
  Image image{width, height, std::vector<uint8_t>(size_t{3} * width * height)};
  uint32_t state = 1;
  for (uint8_t& value : image.rgb) {
    state = state * 1664525 + 1013904223;
    value = static_cast<uint8_t>(state >> 24);
  }
  return image;
}

std::string Encode(const Image& image, const PngText& text) {
  absl::StatusOr<std::string> png = EncodePng(image, text);
  EXPECT_THAT(png, IsOk());
  return png.ok() ? *std::move(png) : "";
}

class PngSizeTest : public testing::TestWithParam<std::pair<int, int>> {};

TEST_P(PngSizeTest, PixelsComeBack) {
  const Image image = Pattern(GetParam().first, GetParam().second);
  const Decoded decoded = DecodePng(Encode(image, {}));
  EXPECT_EQ(decoded.image.width, image.width);
  EXPECT_EQ(decoded.image.height, image.height);
  EXPECT_EQ(decoded.image.rgb, image.rgb);
  EXPECT_EQ(decoded.bit_depth, 8);
  EXPECT_EQ(decoded.color_type, PNG_COLOR_TYPE_RGB);
  EXPECT_EQ(decoded.interlace, PNG_INTERLACE_NONE);
  EXPECT_FALSE(decoded.has_time);
  EXPECT_THAT(decoded.text, IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Sizes, PngSizeTest,
                         testing::Values(std::pair(1, 1), std::pair(7, 3),
                                         std::pair(1, 500), std::pair(500, 1),
                                         std::pair(512, 512)));

TEST(PngEncoderTest, TextComesBackInOrder) {
  const PngText text = {
      {"Software", "graft"}, {"parameters", "a\nb"}, {"x", ""}};
  EXPECT_THAT(
      DecodePng(Encode(Pattern(2, 2), text)).text,
      ElementsAre(TextChunk{PNG_TEXT_COMPRESSION_NONE, "Software", "graft"},
                  TextChunk{PNG_TEXT_COMPRESSION_NONE, "parameters", "a\nb"},
                  TextChunk{PNG_TEXT_COMPRESSION_NONE, "x", ""}));
}

TEST(PngEncoderTest, Latin1TextIsAPlainChunk) {
  EXPECT_THAT(
      DecodePng(Encode(Pattern(2, 2), {{"k", "caf\u00e9 \u00a0\u00ff"}})).text,
      ElementsAre(
          TextChunk{PNG_TEXT_COMPRESSION_NONE, "k", "caf\xe9 \xa0\xff"}));
}

TEST(PngEncoderTest, OtherTextIsAnInternationalChunk) {
  for (const std::string text :
       {"\u0100", "\u6f22 caf\u00e9", "\U0001f600", "tab\t", "\u0085"}) {
    EXPECT_THAT(DecodePng(Encode(Pattern(2, 2), {{"k", text}})).text,
                ElementsAre(TextChunk{PNG_ITXT_COMPRESSION_NONE, "k", text}));
  }
}

TEST(PngEncoderTest, TheSameInputGivesTheSameBytes) {
  const PngText text = {{"a", "x"}, {"b", "\u6f22"}};
  const std::string first = Encode(Pattern(64, 48), text);
  EXPECT_EQ(Encode(Pattern(64, 48), text), first);
  EXPECT_NE(Encode(Pattern(64, 48), {}), first);
}

struct BadImage {
  Image image;
  std::string problem;
};

TEST(PngEncoderTest, SizesThatDoNotFitAreRefused) {
  const BadImage cases[] = {
      {{0, 0, {}}, "0x0"},
      {{-1, 1, {1, 2, 3}}, "-1x1"},
      {{1, -1, {1, 2, 3}}, "1x-1"},
      {{1, 0, {}}, "1x0"},
      {{1, 1, {1, 2}}, "3 bytes, not 2"},
      {{1, 1, {1, 2, 3, 4}}, "3 bytes, not 4"},
      {{2147483647, 2147483647, {1, 2, 3}}, "not 3"},
  };
  for (const BadImage& bad : cases) {
    EXPECT_THAT(EncodePng(bad.image, {}),
                HasReason(ErrorReason::kInvalidField, HasSubstr(bad.problem)));
  }
}

TEST(PngEncoderTest, TextThatIsNoTextIsRefused) {
  for (const std::string& text :
       {std::string("a\xff"), std::string("\xed\xa0\x80"), std::string("\0", 1),
        std::string("a\0b", 3)}) {
    EXPECT_THAT(EncodePng(Pattern(1, 1), {{"key", text}}),
                HasReason(ErrorReason::kInvalidField, HasSubstr("key")));
  }
}

// What libpng would only warn of, and change, is an error here.
TEST(PngEncoderTest, KeywordsThatLibpngRefusesAreInternalErrors) {
  for (const std::string& keyword :
       {std::string(), std::string(80, 'k'), std::string(" k"),
        std::string("k  k"), std::string("k\x01")}) {
    for (const std::string text : {"latin", "\u6f22"}) {
      EXPECT_THAT(EncodePng(Pattern(1, 1), {{keyword, text}}),
                  HasReason(ErrorReason::kInternal, HasSubstr("keyword")))
          << keyword;
    }
  }
}

TEST(PngEncoderTest, LibpngsOwnErrorsAreInternal) {
  // libpng's limit is a width of 1,000,000.
  EXPECT_THAT(EncodePng(Pattern(1000001, 1), {}),
              HasReason(ErrorReason::kInternal, HasSubstr("PNG")));
}

}  // namespace
}  // namespace graft
