#include "server/rpc/drain_reactor.h"

#include <grpc/support/time.h>

#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// Between two looks: short for a person, long for a processor.
constexpr int kIntervalMs = 100;

absl::Time GiveUpTime(const v1::DrainRequest& request, absl::Time now) {
  return request.timeout_ms() == 0
             ? absl::InfiniteFuture()
             : now + absl::Milliseconds(request.timeout_ms());
}

}  // namespace

DrainReactor::DrainReactor(const RpcEnvironment& environment,
                           grpc::CallbackServerContext* context,
                           const v1::DrainRequest& request)
    : context_(context),
      clock_(environment.clock),
      give_up_(GiveUpTime(request, environment.clock->Now())),
      call_(environment.hooks, environment.clock, *context, "Drain",
            request.request_id()) {
  const absl::Status admitted = Admit(environment);
  if (admitted.ok()) {
    Look();
  } else {
    End(admitted);
  }
}

absl::Status DrainReactor::Admit(const RpcEnvironment& environment) {
  GRAFT_RETURN_IF_ERROR(call_.Admit(*context_));
  GRAFT_ASSIGN_OR_RETURN(backend_, environment.state->GetWhileDraining());
  environment.drain();
  return absl::OkStatus();
}

void DrainReactor::Look() {
  if (context_->IsCancelled()) {
    End(Error(ErrorReason::kClientCancelled,
              "the client went away; the server drains nevertheless"));
    return;
  }
  const auto left =
      static_cast<uint32_t>(backend_->scheduler->load().unfinished);
  if (told_ != left) {
    told_ = left;
    message_.set_requests(left);
    StartWrite(&message_);
  } else if (left == 0 || clock_->Now() >= give_up_) {
    End(absl::OkStatus());
  } else {
    LookLater();
  }
}

void DrainReactor::LookLater() {
  // A new one each time: this may be the former one's callback.
  timer_ = std::make_unique<grpc::Alarm>();
  timer_->Set(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                           gpr_time_from_millis(kIntervalMs, GPR_TIMESPAN)),
              [this](bool) { Look(); });
}

void DrainReactor::OnWriteDone(bool) { Look(); }

void DrainReactor::End(const absl::Status& status) {
  Finish(call_.Finish(status));
}

}  // namespace graft
