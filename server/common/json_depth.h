#ifndef GRAFT_SERVER_COMMON_JSON_DEPTH_H_
#define GRAFT_SERVER_COMMON_JSON_DEPTH_H_

#include "absl/strings/string_view.h"

namespace graft {

// More than any file has that is read here.
inline constexpr int kMaxJsonDepth = 64;

// How deep arrays and objects are nested in a JSON text. The parser takes any
// depth, but what copies, compares or prints its values calls itself once for
// each level: a megabyte of brackets would end the process. Of a text that is
// no JSON, some number.
int JsonDepth(absl::string_view text);

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_JSON_DEPTH_H_
