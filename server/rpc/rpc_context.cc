#include "server/rpc/rpc_context.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/rpc/grpc_status_util.h"

namespace graft {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

// The client's deadline as a time of `clock`. gRPC tells it as a time of day,
// which may jump while the request runs, so the time left is taken once, here.
absl::Time Deadline(const grpc::CallbackServerContext& call, absl::Time now) {
  const auto deadline = call.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return absl::InfiniteFuture();
  }
  return now + absl::FromChrono(deadline - std::chrono::system_clock::now());
}

bool IsLowerHex(absl::string_view text, size_t size) {
  return text.size() == size &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

bool IsAllZero(absl::string_view text) {
  return text.find_first_not_of('0') == absl::string_view::npos;
}

absl::Status CheckRequestId(absl::string_view id) {
  const bool valid = id.size() <= kMaxRequestIdBytes &&
                     std::all_of(id.begin(), id.end(), [](unsigned char c) {
                       return absl::ascii_isgraph(c) || c == ' ';
                     });
  if (valid) return absl::OkStatus();
  return InvalidField("request_id",
                      absl::StrCat("must be at most ", kMaxRequestIdBytes,
                                   " printable ASCII characters"));
}

void LogRpc(const RpcContext& context, const absl::Status& status,
            absl::Duration duration) {
  const auto reason = GetErrorReason(status);
  const bool our_fault = status.code() == absl::StatusCode::kInternal ||
                         status.code() == absl::StatusCode::kUnknown ||
                         status.code() == absl::StatusCode::kDataLoss;
  Log(our_fault ? LogLevel::kError : LogLevel::kInfo, "rpc",
      {{"method", context.method},
       {"code", absl::StatusCodeToString(status.code())},
       {"reason", reason ? std::string(ErrorReasonName(*reason)) : "-"},
       {"duration_ms",
        absl::StrFormat("%.1f", absl::ToDoubleMilliseconds(duration))},
       {"request_id", context.request_id},
       {"adapters", context.adapters},
       {"tenant", context.tenant},
       {"traceparent", context.traceparent},
       {"peer", context.peer},
       {"message", std::string(status.message())}});
}

}  // namespace

absl::string_view Header(const grpc::CallbackServerContext& call,
                         const char* name) {
  const auto found = call.client_metadata().find(name);
  if (found == call.client_metadata().end()) return {};
  return absl::string_view(found->second.data(), found->second.size());
}

RpcHooks DefaultRpcHooks() {
  return {[](const grpc::CallbackServerContext&, RpcContext&) {
            return absl::OkStatus();
          },
          LogRpc, [](const absl::Status&, const GenerationSummary&) {}};
}

RpcCall::RpcCall(const RpcHooks* hooks, const Clock* clock,
                 const grpc::CallbackServerContext& call,
                 absl::string_view method, absl::string_view request_id)
    : hooks_(hooks), clock_(clock) {
  context_.method = std::string(method);
  context_.request_id =
      request_id.empty() ? NewRequestId() : std::string(request_id);
  context_.traceparent = ParseTraceparent(Header(call, "traceparent"));
  context_.peer = call.peer();
  context_.start = clock_->Now();
  context_.deadline = Deadline(call, context_.start);
}

absl::Status RpcCall::Admit(const grpc::CallbackServerContext& call) {
  GRAFT_RETURN_IF_ERROR(hooks_->authenticate(call, context_));
  return CheckRequestId(context_.request_id);
}

absl::Status RpcCall::SetRequestId(absl::string_view request_id) {
  if (request_id.empty()) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(CheckRequestId(request_id));
  context_.request_id = std::string(request_id);
  return absl::OkStatus();
}

grpc::Status RpcCall::Finish(const absl::Status& status) {
  hooks_->on_finish(context_, status, clock_->Now() - context_.start);
  return ToGrpcStatus(status);
}

std::string NewRequestId() {
  absl::BitGen random;
  const auto word = [&random] { return absl::Uniform<uint64_t>(random); };
  const uint64_t high = (word() & ~uint64_t{0xF000}) | 0x4000;  // version 4
  const uint64_t low = (word() >> 2) | (uint64_t{1} << 63);     // variant 10
  return absl::StrFormat("%08x-%04x-%04x-%04x-%012x", high >> 32,
                         (high >> 16) & 0xFFFF, high & 0xFFFF, low >> 48,
                         low & 0xFFFFFFFFFFFF);
}

std::string ParseTraceparent(absl::string_view header) {
  const std::vector<absl::string_view> parts = absl::StrSplit(header, '-');
  const bool valid = parts.size() == 4 && parts[0] == "00" &&
                     IsLowerHex(parts[1], 32) && !IsAllZero(parts[1]) &&
                     IsLowerHex(parts[2], 16) && !IsAllZero(parts[2]) &&
                     IsLowerHex(parts[3], 2);
  return valid ? std::string(header) : "";
}

}  // namespace graft
