#ifndef GRAFT_SERVER_RPC_PROTO_CONVERSIONS_H_
#define GRAFT_SERVER_RPC_PROTO_CONVERSIONS_H_

#include <vector>

#include "graft/v1/adapter.pb.h"
#include "graft/v1/admin.pb.h"
#include "graft/v1/generation.pb.h"
#include "server/adapters/adapter_info.h"
#include "server/adapters/adapter_store.h"
#include "server/engine/engine.h"
#include "server/rpc/serving_state.h"
#include "server/scheduling/generation_observer.h"

// Our values as messages. Untrusted text is escaped where it could be anything
// but UTF-8, since a client cannot parse a message with such a string.
namespace graft {

// How a request ended well.
v1::Finished ToProto(const GenerationSummary& summary);

// `family` is the base's that the adapter fits, `resident` what is merged now.
v1::Adapter ToProto(const AdapterInfo& info, BaseFamily family,
                    const std::vector<AppliedAdapter>& resident);

// For the store to check, but for the SHA-256's case.
AdapterStore::LoadRequest FromProto(const v1::LoadAdapterRequest& request);

// What a verification of the base's weights found.
v1::VerifyBaseWeightsResponse ToProto(const VerifyReport& report);

// Everything about a serving server.
v1::ServerInfo ToServerInfo(const Backend& backend);

// What it has to do at this moment.
v1::ServerLoad ToServerLoad(const Backend& backend, bool draining);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_PROTO_CONVERSIONS_H_
