#ifndef GRAFT_SERVER_RPC_GRPC_STATUS_UTIL_H_
#define GRAFT_SERVER_RPC_GRPC_STATUS_UTIL_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace graft {

// `status` as it goes over the wire: code, message, and in the details a
// google.rpc.Status with ErrorInfo{reason, "graft", metadata} and what else the
// error table asks for (BadRequest, ResourceInfo, PreconditionFailure,
// QuotaFailure, RetryInfo). A status that was not made by Error() is a bug: it
// keeps its code and gets the reason INTERNAL.
//
// Messages and metadata are cut so that the trailers stay below the 8 KiB that
// clients accept.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_GRPC_STATUS_UTIL_H_
