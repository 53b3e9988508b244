#include "server/rpc/upload_reactor.h"

#include <grpc/support/time.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/proto_conversions.h"

namespace graft {
namespace {

// For another daemon that loads a file of the same directory: longer than most
// loads take, and what a daemon costs that was stopped meanwhile.
constexpr absl::Duration kLockWait = absl::Seconds(10);

}  // namespace

UploadReactor::UploadReactor(const RpcEnvironment& environment,
                             grpc::CallbackServerContext* context,
                             v1::LoadAdapterResponse* response,
                             const TakePlace& take_place)
    : context_(context),
      response_(response),
      take_place_(take_place),
      read_timeout_(environment.write_timeout),
      call_(environment.hooks, environment.clock, *context, "UploadAdapter",
            /*request_id=*/"") {
  const absl::Status admitted = Admit(environment);
  if (admitted.ok()) {
    Read();
  } else {
    End(admitted);
  }
}

absl::Status UploadReactor::Admit(const RpcEnvironment& environment) {
  GRAFT_RETURN_IF_ERROR(call_.Admit(*context_));
  GRAFT_ASSIGN_OR_RETURN(backend_, environment.state->Get());
  return absl::OkStatus();
}

void UploadReactor::Read() {
  under_way_ = 2;
  // A new one each time: the former one's callback may not have returned yet.
  timer_ = std::make_unique<grpc::Alarm>();
  timer_->Set(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_nanos(absl::ToInt64Nanoseconds(read_timeout_),
                                       GPR_TIMESPAN)),
      [this](bool expired) { OnTimer(expired); });
  StartRead(&message_);
}

void UploadReactor::OnReadDone(bool ok) {
  message_came_ = ok;
  timer_->Cancel();
  if (--under_way_ == 0) OnRead();
}

void UploadReactor::OnTimer(bool expired) {
  if (expired) {
    timed_out_ = true;
    context_->TryCancel();  // ends the read
  }
  if (--under_way_ == 0) OnRead();
}

void UploadReactor::OnRead() {
  if (context_->IsCancelled()) {
    End(Error(ErrorReason::kClientCancelled,
              timed_out_
                  ? absl::StrCat("the client sent nothing for ",
                                 absl::FormatDuration(read_timeout_))
                  : "the client went away before the upload was complete"));
    return;
  }
  Executor* const executor =
      message_came_ ? backend_->loader : backend_->committer;
  executor->Run([this] {
    const absl::Status status = message_came_ ? Take() : Commit();
    if (message_came_ && status.ok()) {
      Read();
    } else {
      End(status);
    }
  });
}

absl::Status UploadReactor::Take() {
  if (upload_ == nullptr) return TakeHeader();
  if (!message_.has_data()) {
    return InvalidField("part", "must be data after the first message");
  }
  if (message_.data().empty()) {
    return InvalidField("data", "must have at least one byte");
  }
  return upload_->Append(message_.data());
}

absl::Status UploadReactor::TakeHeader() {
  if (!message_.has_header()) {
    return InvalidField("part", "must be the header in the first message");
  }
  const v1::UploadAdapterHeader& header = message_.header();
  GRAFT_RETURN_IF_ERROR(call_.SetRequestId(header.request_id()));
  GRAFT_ASSIGN_OR_RETURN(place_, take_place_());
  GRAFT_ASSIGN_OR_RETURN(
      upload_,
      AdapterUpload::Begin(backend_->adapter_dir,
                           backend_->limits.max_adapter_file_bytes, header));
  return absl::OkStatus();
}

absl::Status UploadReactor::Commit() {
  if (upload_ == nullptr) {
    return InvalidField("part", "must be the header in the first message");
  }
  GRAFT_ASSIGN_OR_RETURN(const AdapterStore::LoadResult result,
                         upload_->Commit(*backend_->adapters, kLockWait));
  *response_->mutable_adapter() =
      ToProto(result.adapter, backend_->engine->info().family,
              backend_->scheduler->resident());
  response_->set_already_loaded(result.already_loaded);
  return absl::OkStatus();
}

void UploadReactor::End(const absl::Status& status) {
  upload_.reset();
  place_.reset();
  Finish(call_.Finish(status));
}

}  // namespace graft
