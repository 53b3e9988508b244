#ifndef GRAFT_SERVER_IMAGE_IMAGE_H_
#define GRAFT_SERVER_IMAGE_IMAGE_H_

#include <cstdint>
#include <vector>

namespace graft {

// An 8-bit sRGB picture: `height` rows of `width` pixels, three bytes each, no
// padding between rows.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;
};

}  // namespace graft

#endif  // GRAFT_SERVER_IMAGE_IMAGE_H_
