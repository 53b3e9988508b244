#include "tests/chaos/png_difference.h"

#include <png.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace graft {
namespace {

// The pixels as RGB; empty if the file is damaged.
std::vector<uint8_t> DecodePng(const std::string& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_memory(&image, file.data(), file.size()) == 0) {
    return {};
  }
  image.format = PNG_FORMAT_RGB;
  std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr) == 0) {
    return {};
  }
  return pixels;
}

}  // namespace

PngDifference ComparePngs(const std::string& a, const std::string& b) {
  const std::vector<uint8_t> left = DecodePng(a);
  const std::vector<uint8_t> right = DecodePng(b);
  if (left.empty() || left.size() != right.size()) return {255, 255};
  PngDifference difference;
  for (size_t i = 0; i < left.size(); ++i) {
    const int distance = std::abs(int{left[i]} - int{right[i]});
    difference.max = std::max(difference.max, distance);
    difference.mean += distance;
  }
  difference.mean /= static_cast<double>(left.size());
  return difference;
}

std::string PngHead(const std::string& png) {
  constexpr size_t kLengthField = 4;
  const size_t pixels = png.find("IDAT");
  return pixels == std::string::npos ? ""
                                     : png.substr(0, pixels - kLengthField);
}

}  // namespace graft
