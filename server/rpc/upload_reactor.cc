#include "server/rpc/upload_reactor.h"

#include <utility>

#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/proto_conversions.h"

namespace graft {

UploadReactor::UploadReactor(const RpcEnvironment& environment,
                             grpc::CallbackServerContext* context,
                             v1::LoadAdapterResponse* response,
                             const TakePlace& take_place)
    : context_(context),
      response_(response),
      call_(environment.hooks, environment.clock, *context, "UploadAdapter",
            /*request_id=*/"") {
  const absl::Status admitted = Admit(environment, take_place);
  if (admitted.ok()) {
    StartRead(&message_);
  } else {
    End(admitted);
  }
}

absl::Status UploadReactor::Admit(const RpcEnvironment& environment,
                                  const TakePlace& take_place) {
  GRAFT_RETURN_IF_ERROR(call_.Admit(*context_));
  GRAFT_ASSIGN_OR_RETURN(backend_, environment.state->Get());
  GRAFT_ASSIGN_OR_RETURN(place_, take_place());
  return absl::OkStatus();
}

void UploadReactor::OnReadDone(bool ok) {
  if (context_->IsCancelled()) {
    End(Error(ErrorReason::kClientCancelled,
              "the client went away before the upload was complete"));
    return;
  }
  backend_->loader->Run([this, ok] {
    const absl::Status status = ok ? Take() : Commit();
    if (ok && status.ok()) {
      StartRead(&message_);
    } else {
      End(status);
    }
  });
}

absl::Status UploadReactor::Take() {
  if (upload_ != nullptr) {
    if (!message_.has_data()) {
      return InvalidField("part", "must be data after the first message");
    }
    return upload_->Append(message_.data());
  }
  if (!message_.has_header()) {
    return InvalidField("part", "must be the header in the first message");
  }
  const v1::UploadAdapterHeader& header = message_.header();
  GRAFT_RETURN_IF_ERROR(call_.SetRequestId(header.request_id()));
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
                         upload_->Commit(*backend_->adapters));
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
