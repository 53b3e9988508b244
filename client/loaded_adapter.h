#ifndef GRAFT_CLIENT_LOADED_ADAPTER_H_
#define GRAFT_CLIENT_LOADED_ADAPTER_H_

#include <ostream>

#include "graft/v1/adapter.pb.h"

namespace graft {

// Tells a person what was loaded or uploaded.
void PrintLoaded(const v1::LoadAdapterResponse& response, std::ostream& out);

}  // namespace graft

#endif  // GRAFT_CLIENT_LOADED_ADAPTER_H_
