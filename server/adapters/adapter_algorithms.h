#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_ALGORITHMS_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_ALGORITHMS_H_

#include "absl/status/status.h"
#include "server/adapters/key_groups.h"

namespace graft {

// The algorithm of one group, told by its parts. ADAPTER_KIND_UNSUPPORTED, with
// its name, if it is known but not implemented. A group may still be
// incomplete.
absl::Status CheckAlgorithm(const KeyGroup& group);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_ALGORITHMS_H_
