#include "server/common/version.h"

namespace graft {

absl::string_view Version() { return GRAFT_VERSION; }

}  // namespace graft
