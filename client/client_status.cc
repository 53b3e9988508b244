#include "client/client_status.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace graft {
namespace {

constexpr absl::string_view kReasonUrl = "graft/reason";
constexpr absl::string_view kRetryUrl = "graft/retry_delay_ms";

// "NOT_FOUND": a status code as gRPC writes it.
std::string CodeName(absl::StatusCode code) {
  return code == absl::StatusCode::kOk ? "OK" : absl::StatusCodeToString(code);
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()),
                         status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return converted;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&info)) {
      converted.SetPayload(kReasonUrl, absl::Cord(info.reason()));
    } else if (detail.UnpackTo(&retry)) {
      const int64_t milliseconds = retry.retry_delay().seconds() * 1000 +
                                   retry.retry_delay().nanos() / 1'000'000;
      converted.SetPayload(kRetryUrl, absl::Cord(absl::StrCat(milliseconds)));
    }
  }
  return converted;
}

std::string ErrorReasonOf(const absl::Status& status) {
  const auto reason = status.GetPayload(kReasonUrl);
  return reason.has_value() ? std::string(*reason) : "NO_REASON";
}

absl::Status WithErrorReason(absl::Status status, absl::string_view reason) {
  status.SetPayload(kReasonUrl, absl::Cord(reason));
  return status;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const auto delay = status.GetPayload(kRetryUrl);
  int64_t milliseconds = 0;
  if (!delay.has_value() ||
      !absl::SimpleAtoi(std::string(*delay), &milliseconds)) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

std::string DescribeError(const absl::Status& status) {
  return absl::StrCat(
      CodeName(status.code()), " ", ErrorReasonOf(status), ": ",
      absl::StrReplaceAll(status.message(), {{"\n", " "}, {"\r", " "}}));
}

}  // namespace graft
