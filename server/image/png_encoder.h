#ifndef GRAFT_SERVER_IMAGE_PNG_ENCODER_H_
#define GRAFT_SERVER_IMAGE_PNG_ENCODER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/image/image.h"

namespace graft {

// Keyword and text of PNG text chunks, in file order. Text that is plain
// Latin-1 becomes a tEXt chunk, other valid UTF-8 an iTXt chunk.
using PngText = std::vector<std::pair<std::string, std::string>>;

// `image` as a PNG file (8-bit RGB, no interlace, no time chunk): the same
// picture and text give the same bytes. Thread-safe. INVALID_ARGUMENT if
// image.rgb does not have width * height * 3 bytes or a text is not UTF-8 or
// has a NUL; INTERNAL if libpng refuses (it knows which keywords are allowed).
absl::StatusOr<std::string> EncodePng(const Image& image, const PngText& text);

}  // namespace graft

#endif  // GRAFT_SERVER_IMAGE_PNG_ENCODER_H_
