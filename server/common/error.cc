#include "server/common/error.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/common/utf8.h"

namespace graft {
namespace {

struct Row {
  ErrorReason reason;
  absl::string_view name;
  absl::StatusCode code;
};

using Code = absl::StatusCode;

constexpr Row kTable[] = {
    {ErrorReason::kInvalidField, "INVALID_FIELD", Code::kInvalidArgument},
    {ErrorReason::kTokenInvalid, "TOKEN_INVALID", Code::kUnauthenticated},
    {ErrorReason::kRoleNotAllowed, "ROLE_NOT_ALLOWED", Code::kPermissionDenied},
    {ErrorReason::kAdapterDirNotSet, "ADAPTER_DIR_NOT_SET",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterDirReadOnly, "ADAPTER_DIR_READ_ONLY",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterTooLarge, "ADAPTER_TOO_LARGE",
     Code::kResourceExhausted},
    {ErrorReason::kAdapterNotFound, "ADAPTER_NOT_FOUND", Code::kNotFound},
    {ErrorReason::kAdapterConflict, "ADAPTER_CONFLICT", Code::kAlreadyExists},
    {ErrorReason::kAdapterVersionMismatch, "ADAPTER_VERSION_MISMATCH",
     Code::kAborted},
    {ErrorReason::kAdapterBaseMismatch, "ADAPTER_BASE_MISMATCH",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterKeysUnmatched, "ADAPTER_KEYS_UNMATCHED",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterKindUnsupported, "ADAPTER_KIND_UNSUPPORTED",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterCorrupt, "ADAPTER_CORRUPT",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterNonFinite, "ADAPTER_NON_FINITE",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterInUse, "ADAPTER_IN_USE", Code::kFailedPrecondition},
    {ErrorReason::kAdapterPinned, "ADAPTER_PINNED", Code::kFailedPrecondition},
    {ErrorReason::kPathNotAllowed, "PATH_NOT_ALLOWED", Code::kPermissionDenied},
    {ErrorReason::kQuota, "QUOTA", Code::kResourceExhausted},
    {ErrorReason::kAdapterCacheFull, "ADAPTER_CACHE_FULL",
     Code::kResourceExhausted},
    {ErrorReason::kGpuOutOfMemory, "GPU_OUT_OF_MEMORY",
     Code::kResourceExhausted},
    {ErrorReason::kQueueFull, "QUEUE_FULL", Code::kUnavailable},
    {ErrorReason::kStarting, "STARTING", Code::kUnavailable},
    {ErrorReason::kDraining, "DRAINING", Code::kUnavailable},
    {ErrorReason::kDeadlineInQueue, "DEADLINE_IN_QUEUE",
     Code::kDeadlineExceeded},
    {ErrorReason::kDeadlineRunning, "DEADLINE_RUNNING",
     Code::kDeadlineExceeded},
    {ErrorReason::kClientCancelled, "CLIENT_CANCELLED", Code::kCancelled},
    {ErrorReason::kAdminCancelled, "ADMIN_CANCELLED", Code::kCancelled},
    {ErrorReason::kBaseWeightsDrift, "BASE_WEIGHTS_DRIFT", Code::kDataLoss},
    {ErrorReason::kNonFiniteLatents, "NON_FINITE_LATENTS", Code::kInternal},
    {ErrorReason::kModelUnsupported, "MODEL_UNSUPPORTED",
     Code::kFailedPrecondition},
    {ErrorReason::kInternal, "INTERNAL", Code::kInternal},
};

constexpr absl::string_view kReasonUrl = "graft/reason";
constexpr absl::string_view kMetadataUrl = "graft/metadata";
constexpr absl::string_view kRetryUrl = "graft/retry_delay_ms";

const Row& Find(ErrorReason reason) {
  for (const Row& row : kTable) {
    if (row.reason == reason) return row;
  }
  return kTable[std::size(kTable) - 1];
}

// True for the C0 and C1 control characters and DEL: `length` bytes of UTF-8 at
// `text`.
bool IsControl(absl::string_view text, size_t length) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (length == 1) return first < 0x20 || first == 0x7F;
  return first == 0xC2 && static_cast<uint8_t>(text[1]) < 0xA0;
}

// Length-prefixed pairs: the payload is a Cord of bytes, and values may hold
// any character.
std::string PackMetadata(const ErrorMetadata& metadata) {
  std::string packed;
  for (const auto& [key, value] : metadata) {
    absl::StrAppend(&packed, key.size(), ":", key, value.size(), ":", value);
  }
  return packed;
}

bool TakeField(absl::string_view& packed, std::string& field) {
  const size_t colon = packed.find(':');
  size_t size = 0;
  if (colon == absl::string_view::npos ||
      !absl::SimpleAtoi(packed.substr(0, colon), &size) ||
      packed.size() - colon - 1 < size) {
    return false;
  }
  field = std::string(packed.substr(colon + 1, size));
  packed.remove_prefix(colon + 1 + size);
  return true;
}

}  // namespace

absl::string_view ErrorReasonName(ErrorReason reason) {
  return Find(reason).name;
}

absl::StatusCode ErrorReasonCode(ErrorReason reason) {
  return Find(reason).code;
}

absl::Status Error(ErrorReason reason, absl::string_view message,
                   const ErrorMetadata& metadata) {
  absl::Status status(ErrorReasonCode(reason), EscapeUntrusted(message, 4096));
  status.SetPayload(kReasonUrl, absl::Cord(ErrorReasonName(reason)));
  if (!metadata.empty()) {
    status.SetPayload(kMetadataUrl, absl::Cord(PackMetadata(metadata)));
  }
  return status;
}

absl::Status InvalidField(absl::string_view field, absl::string_view message) {
  return Error(ErrorReason::kInvalidField, absl::StrCat(field, ": ", message),
               {{"field", std::string(field)}});
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  status.SetPayload(kRetryUrl,
                    absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
  return status;
}

std::optional<ErrorReason> GetErrorReason(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonUrl);
  if (!payload.has_value()) return std::nullopt;
  for (const Row& row : kTable) {
    if (*payload == row.name) return row.reason;
  }
  return std::nullopt;
}

ErrorMetadata GetErrorMetadata(const absl::Status& status) {
  ErrorMetadata metadata;
  const auto payload = status.GetPayload(kMetadataUrl);
  if (!payload.has_value()) return metadata;
  const std::string bytes(*payload);
  absl::string_view packed = bytes;
  std::string key;
  std::string value;
  while (TakeField(packed, key) && TakeField(packed, value)) {
    metadata.emplace_back(key, value);
  }
  return metadata;
}

std::optional<absl::Duration> GetRetryDelay(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryUrl);
  int64_t milliseconds = 0;
  if (!payload.has_value() ||
      !absl::SimpleAtoi(std::string(*payload), &milliseconds)) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

std::string EscapeUntrusted(absl::string_view text, size_t max_bytes) {
  std::string escaped;
  while (!text.empty()) {
    if (escaped.size() >= max_bytes) {
      escaped += "...";
      break;
    }
    const size_t length = Utf8SequenceLength(text);
    if (length > 0 && !IsControl(text, length)) {
      absl::StrAppend(&escaped, text.substr(0, length));
      text.remove_prefix(length);
      continue;
    }
    for (const char c : text.substr(0, std::max<size_t>(length, 1))) {
      absl::StrAppendFormat(&escaped, "\\x%02x", static_cast<uint8_t>(c));
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return escaped;
}

}  // namespace graft
