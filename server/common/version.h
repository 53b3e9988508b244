#ifndef GRAFT_SERVER_COMMON_VERSION_H_
#define GRAFT_SERVER_COMMON_VERSION_H_

#include "absl/strings/string_view.h"

namespace graft {

// The version of this build, "0.1.0".
absl::string_view Version();

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_VERSION_H_
