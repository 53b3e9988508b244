#include "server/rpc/grpc_status_util.h"

#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/duration.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/common/error.h"

namespace graft {
namespace {

// The message goes over the wire twice, once percent-encoded (three bytes for
// one at worst) and once in base64 (four for three); metadata once in base64.
// With these bounds all trailers together stay below 8 KiB.
constexpr size_t kMaxMessageBytes = 1024;
constexpr size_t kMaxValueBytes = 200;
constexpr size_t kMaxMetadataEntries = 6;

// For what somebody else has first to give back: requests end, adapters make
// room.
constexpr absl::Duration kRoomRetryDelay = absl::Seconds(1);

// The start of `text`, cut between two characters.
std::string Cut(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  return absl::StrCat(text.substr(0, end), "...");
}

std::string Find(const ErrorMetadata& metadata, absl::string_view key) {
  for (const auto& [name, value] : metadata) {
    if (name == key) return Cut(value, kMaxValueBytes);
  }
  return "";
}

int64_t FindNumber(const ErrorMetadata& metadata, absl::string_view key) {
  int64_t number = 0;
  return absl::SimpleAtoi(Find(metadata, key), &number) ? number : 0;
}

// When to try again: what the error says, else what its reason does. Nothing
// that could never fit is worth a second try.
std::optional<absl::Duration> RetryDelay(const absl::Status& status,
                                         ErrorReason reason,
                                         const ErrorMetadata& metadata) {
  if (const auto delay = GetRetryDelay(status); delay.has_value()) return delay;
  switch (reason) {
    case ErrorReason::kQuota:
    case ErrorReason::kGpuOutOfMemory:
      return kRoomRetryDelay;
    case ErrorReason::kAdapterCacheFull:
      if (FindNumber(metadata, "wanted_bytes") >
          FindNumber(metadata, "limit_bytes")) {
        return std::nullopt;
      }
      return kRoomRetryDelay;
    default:
      return std::nullopt;
  }
}

void AddErrorInfo(ErrorReason reason, const ErrorMetadata& metadata,
                  google::rpc::Status& details) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ErrorReasonName(reason)));
  info.set_domain("graft");
  for (const auto& [key, value] : metadata) {
    if (info.metadata().size() >= kMaxMetadataEntries) break;
    (*info.mutable_metadata())[key] =
        Cut(EscapeUntrusted(value, kMaxValueBytes), kMaxValueBytes);
  }
  details.add_details()->PackFrom(info);
}

void AddBadRequest(const ErrorMetadata& metadata,
                   google::rpc::Status& details) {
  google::rpc::BadRequest bad_request;
  auto* const violation = bad_request.add_field_violations();
  violation->set_field(Find(metadata, "field"));
  violation->set_description(Cut(details.message(), kMaxValueBytes));
  details.add_details()->PackFrom(bad_request);
}

void AddResourceInfo(const ErrorMetadata& metadata,
                     google::rpc::Status& details) {
  google::rpc::ResourceInfo resource;
  resource.set_resource_type(Find(metadata, "resource_type"));
  resource.set_resource_name(Find(metadata, "resource_name"));
  resource.set_description(Cut(details.message(), kMaxValueBytes));
  details.add_details()->PackFrom(resource);
}

void AddPreconditionFailure(ErrorReason reason, const ErrorMetadata& metadata,
                            google::rpc::Status& details) {
  google::rpc::PreconditionFailure failure;
  auto* const violation = failure.add_violations();
  violation->set_type(std::string(ErrorReasonName(reason)));
  violation->set_subject(Find(metadata, "resource_name"));
  violation->set_description(Cut(details.message(), kMaxValueBytes));
  details.add_details()->PackFrom(failure);
}

void AddQuotaFailure(ErrorReason reason, google::rpc::Status& details) {
  google::rpc::QuotaFailure failure;
  auto* const violation = failure.add_violations();
  violation->set_subject(std::string(ErrorReasonName(reason)));
  violation->set_description(Cut(details.message(), kMaxValueBytes));
  details.add_details()->PackFrom(failure);
}

void AddRetryInfo(absl::Duration delay, google::rpc::Status& details) {
  google::rpc::RetryInfo retry;
  const int64_t milliseconds = absl::ToInt64Milliseconds(delay);
  retry.mutable_retry_delay()->set_seconds(milliseconds / 1000);
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(milliseconds % 1000) * 1'000'000);
  details.add_details()->PackFrom(retry);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const ErrorReason reason =
      GetErrorReason(status).value_or(ErrorReason::kInternal);
  const ErrorMetadata metadata = GetErrorMetadata(status);

  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(
      Cut(EscapeUntrusted(status.message(), 2 * kMaxMessageBytes),
          kMaxMessageBytes));
  AddErrorInfo(reason, metadata, details);
  if (!Find(metadata, "field").empty()) AddBadRequest(metadata, details);
  if (!Find(metadata, "resource_name").empty()) {
    AddResourceInfo(metadata, details);
  }
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    AddPreconditionFailure(reason, metadata, details);
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    AddQuotaFailure(reason, details);
  }
  if (const auto delay = RetryDelay(status, reason, metadata);
      delay.has_value()) {
    AddRetryInfo(*delay, details);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      details.message(), details.SerializeAsString());
}

}  // namespace graft
