#include "server/common/utf8.h"

#include <cstdint>
#include <string>

#include "gtest/gtest.h"

namespace graft {
namespace {

// RFC 3629 by arithmetic: the encoding of each code point, and nothing else.
std::string Encode(uint32_t c) {
  std::string text;
  const auto add = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) {
    add(c);
  } else if (c < 0x800) {
    add(0xC0 | c >> 6);
    add(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    add(0xE0 | c >> 12);
    add(0x80 | (c >> 6 & 0x3F));
    add(0x80 | (c & 0x3F));
  } else {
    add(0xF0 | c >> 18);
    add(0x80 | (c >> 12 & 0x3F));
    add(0x80 | (c >> 6 & 0x3F));
    add(0x80 | (c & 0x3F));
  }
  return text;
}

TEST(Utf8Test, AcceptsExactlyTheUnicodeScalarValues) {
  for (uint32_t c = 0; c <= 0x1FFFFF; ++c) {
    const std::string text = Encode(c);
    const bool scalar = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF);
    ASSERT_EQ(Utf8SequenceLength(text), scalar ? text.size() : 0u) << c;
  }
}

TEST(Utf8Test, RefusesOverlongForms) {
  // The same bits with one byte more than needed.
  for (uint32_t c = 0; c < 0x80; ++c) {
    const std::string text = {static_cast<char>(0xC0 | c >> 6),
                              static_cast<char>(0x80 | (c & 0x3F))};
    ASSERT_EQ(Utf8SequenceLength(text), 0u) << c;
  }
  EXPECT_EQ(Utf8SequenceLength("\xe0\x9f\xbf"), 0u);
  EXPECT_EQ(Utf8SequenceLength("\xf0\x8f\xbf\xbf"), 0u);
}

TEST(Utf8Test, RefusesCutSequences) {
  for (const uint32_t c : {0x80u, 0x800u, 0x10000u}) {
    const std::string text = Encode(c);
    for (size_t size = 1; size < text.size(); ++size) {
      EXPECT_EQ(Utf8SequenceLength(text.substr(0, size)), 0u);
      EXPECT_EQ(Utf8SequenceLength(text.substr(0, size) + "a"), 0u);
    }
  }
}

TEST(Utf8Test, WholeTextMustBeValid) {
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8("a\xc3\xbc\xf0\x9f\x98\x80"));
  EXPECT_FALSE(IsValidUtf8("a\xc3\xbc\xf0\x9f\x98"));
  EXPECT_FALSE(IsValidUtf8("\xffz"));
}

}  // namespace
}  // namespace graft
