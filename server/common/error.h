#ifndef GRAFT_SERVER_COMMON_ERROR_H_
#define GRAFT_SERVER_COMMON_ERROR_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// The error table: every error that a client can see has one reason, and the
// reason alone decides the status code (AIP-193). Rooms make errors with
// Error(); the rpc room turns them into google.rpc.ErrorInfo and its siblings.
namespace graft {

enum class ErrorReason {
  kInvalidField,      // INVALID_ARGUMENT: a field is malformed or out of range
  kTokenInvalid,      // UNAUTHENTICATED
  kRoleNotAllowed,    // PERMISSION_DENIED
  kAdapterDirNotSet,  // FAILED_PRECONDITION: started without --adapter_dir
  kAdapterDirReadOnly,  // FAILED_PRECONDITION: --adapter_dir takes no uploads
  kAdapterTooLarge,     // RESOURCE_EXHAUSTED: file above the size limit
  kAdapterNotFound,     // NOT_FOUND: not loaded, or no such file
  kAdapterConflict,     // ALREADY_EXISTS: other content under this name
  kAdapterVersionMismatch,  // ABORTED: etag or SHA-256 is not the expected one
  kAdapterBaseMismatch,     // FAILED_PRECONDITION: made for another base
  kAdapterKeysUnmatched,    // FAILED_PRECONDITION: keys that fit no module
  kAdapterKindUnsupported,  // FAILED_PRECONDITION: algorithm not implemented
  kAdapterCorrupt,    // FAILED_PRECONDITION: not a valid safetensors adapter
  kAdapterNonFinite,  // FAILED_PRECONDITION: NaN/Inf inside, or the merge would
                      // overflow
  kAdapterInUse,      // FAILED_PRECONDITION
  kAdapterPinned,     // FAILED_PRECONDITION
  kPathNotAllowed,    // PERMISSION_DENIED: outside --adapter_dir
  kQuota,             // RESOURCE_EXHAUSTED: no room on the disk
  kAdapterCacheFull,  // RESOURCE_EXHAUSTED
  kGpuOutOfMemory,    // RESOURCE_EXHAUSTED: device (or host) memory
  kQueueFull,         // UNAVAILABLE
  kStarting,          // UNAVAILABLE: the base is still loading
  kDraining,          // UNAVAILABLE: takes no new work any more
  kDeadlineInQueue,   // DEADLINE_EXCEEDED: the device had not begun
  kDeadlineRunning,   // DEADLINE_EXCEEDED after it
  kClientCancelled,   // CANCELLED
  kAdminCancelled,    // CANCELLED
  kBaseWeightsDrift,  // DATA_LOSS
  kNonFiniteLatents,  // INTERNAL: NaN/Inf in the latents at some step
  kModelUnsupported,  // FAILED_PRECONDITION: the base folder at start-up
  kInternal,          // INTERNAL: our bug
};

// Machine-readable companions of an error, in the order given.
using ErrorMetadata = std::vector<std::pair<std::string, std::string>>;

// "ADAPTER_NOT_FOUND" and so on.
absl::string_view ErrorReasonName(ErrorReason reason);

// The status code that the error table assigns to `reason`.
absl::StatusCode ErrorReasonCode(ErrorReason reason);

// A Status with the code of `reason`, carrying the reason and `metadata`.
// `message` says what is wrong and what to do. Bytes that are not UTF-8 are
// escaped, so that the message can always be sent.
absl::Status Error(ErrorReason reason, absl::string_view message,
                   const ErrorMetadata& metadata = {});

// Error(kInvalidField) with the name of the field, as the proto spells it,
// under the metadata key "field".
absl::Status InvalidField(absl::string_view field, absl::string_view message);

// The same error with `delay` attached: the client may try again after it.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);

// What Error() and WithRetryDelay() attached; nullopt or empty where nothing
// was.
std::optional<ErrorReason> GetErrorReason(const absl::Status& status);
ErrorMetadata GetErrorMetadata(const absl::Status& status);
std::optional<absl::Duration> GetRetryDelay(const absl::Status& status);

// `text` with control characters and bytes that are not valid UTF-8 written as
// \xNN. For everything untrusted that goes into a message, a log line or a
// reply.
std::string EscapeUntrusted(absl::string_view text, size_t max_bytes = 256);

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_ERROR_H_
