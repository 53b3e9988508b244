#ifndef GRAFT_CLIENT_CLIENT_STATUS_H_
#define GRAFT_CLIENT_CLIENT_STATUS_H_

#include <grpcpp/support/status.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft {

// What a server answered, as a Status that still knows the reason and the retry
// delay of its details (google.rpc.ErrorInfo and RetryInfo).
absl::Status FromGrpcStatus(const grpc::Status& status);

// ErrorInfo.reason, "NO_REASON" where the server gave none.
std::string ErrorReasonOf(const absl::Status& status);

// RetryInfo.retry_delay.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// `status` with a reason of the client's own making.
absl::Status WithErrorReason(absl::Status status, absl::string_view reason);

// "CODE REASON: message", on one line.
std::string DescribeError(const absl::Status& status);

}  // namespace graft

#endif  // GRAFT_CLIENT_CLIENT_STATUS_H_
