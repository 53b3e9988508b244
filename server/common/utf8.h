#ifndef GRAFT_SERVER_COMMON_UTF8_H_
#define GRAFT_SERVER_COMMON_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace graft {

// Bytes of the UTF-8 sequence at the start of `text`: 1 to 4, or 0 if there is
// none that is valid (RFC 3629: neither overlong, nor a surrogate, nor above
// U+10FFFF). REQUIRES: text is not empty.
size_t Utf8SequenceLength(absl::string_view text);

// True if all of `text` is valid UTF-8.
bool IsValidUtf8(absl::string_view text);

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_UTF8_H_
