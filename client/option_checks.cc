#include "client/option_checks.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft {
namespace {

constexpr double kMaxSeconds = 1e7;

// Bytes of the character that `text` begins with, 0 if it is none: neither
// overlong, nor a surrogate, nor above U+10FFFF. REQUIRES: `text` is not empty.
size_t CharacterLength(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first < 0xC2   ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool outside =
      (first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) >= 0xA0) ||
      (first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) >= 0x90);
  return outside ? 0 : length;
}

}  // namespace

std::string CheckNumber(const std::string& text) {
  uint32_t number = 0;
  const bool digits =
      std::all_of(text.begin(), text.end(),
                  [](unsigned char c) { return absl::ascii_isdigit(c); });
  if (!digits || !absl::SimpleAtoi(text, &number)) {
    return absl::StrCat(text, " is no number from 0 to 2^32 - 1");
  }
  if (text.size() > 1 && text.front() == '0') {
    return absl::StrCat(text, " begins with 0; write ", number);
  }
  return "";
}

std::string CheckSeconds(const std::string& text) {
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds) && seconds > 0 &&
      seconds <= kMaxSeconds) {
    return "";
  }
  return absl::StrCat(text, " is no number of seconds above 0, at most ",
                      kMaxSeconds);
}

std::string CheckUtf8(const std::string& text) {
  absl::string_view rest = text;
  while (!rest.empty()) {
    const size_t length = CharacterLength(rest);
    if (length == 0) {
      return absl::StrCat("the text is no UTF-8 from byte ",
                          text.size() - rest.size(), " on");
    }
    rest.remove_prefix(length);
  }
  return "";
}

}  // namespace graft
