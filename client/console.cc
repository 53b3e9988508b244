#include "client/console.h"

#include <charconv>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace graft {

std::string FormatFloat(float value) {
  char buffer[32];
  const auto end = std::to_chars(std::begin(buffer), std::end(buffer), value);
  return std::string(buffer, end.ptr);
}

double AsWritten(float value) {
  const std::string text = FormatFloat(value);
  double widened = value;
  std::from_chars(text.data(), text.data() + text.size(), widened);
  return widened;
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B")
                   : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatMilliseconds(double milliseconds) {
  return milliseconds < 1000 ? absl::StrFormat("%.1f ms", milliseconds)
                             : absl::StrFormat("%.2f s", milliseconds / 1000);
}

}  // namespace graft
