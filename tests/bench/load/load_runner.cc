#include "tests/bench/load/load_runner.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/client_callback.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client_status.h"

namespace graft::load {

// One request and its stream. Owns itself, from Start() to OnDone().
class LoadRunner::Call final
    : public grpc::ClientReadReactor<v1::GenerateImageResponse> {
 public:
  Call(LoadRunner& runner, absl::Duration scheduled,
       v1::GenerateImageRequest request)
      : runner_(runner), request_(std::move(request)) {
    outcome_.scheduled = scheduled;
    if (request_.adapters_size() > 0) {
      outcome_.adapter = request_.adapters(0).name();
    }
  }

  void Start(v1::GenerationService::Stub& stub, const std::string& token,
             absl::Time deadline) {
    if (deadline != absl::InfiniteFuture()) {
      context_.set_deadline(absl::ToChronoTime(deadline));
    }
    if (!token.empty()) {
      context_.AddMetadata("authorization", "Bearer " + token);
    }
    outcome_.sent = runner_.Now();
    stub.async()->GenerateImage(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // the end: OnDone follows
    if (event_.has_image() && event_.image().last()) ++outcome_.images;
    if (event_.has_finished()) outcome_.timings = event_.finished().timings();
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    outcome_.ended = runner_.Now();
    outcome_.status = FromGrpcStatus(status);
    runner_.OnEnd(this, std::move(outcome_));
  }

  void Cancel() { context_.TryCancel(); }

 private:
  LoadRunner& runner_;
  const v1::GenerateImageRequest request_;
  grpc::ClientContext context_;
  v1::GenerateImageResponse event_;
  Outcome outcome_;
};

LoadRunner::LoadRunner(Options options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  // Otherwise equal channels would share one connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // What is refused counts as refused.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  for (int i = 0; i < options_.connections; ++i) {
    channels_.push_back(grpc::CreateCustomChannel(
        options_.server, grpc::InsecureChannelCredentials(), arguments));
    stubs_.push_back(v1::GenerationService::NewStub(channels_.back()));
  }
}

absl::Status LoadRunner::Connect(absl::Duration timeout) {
  const auto deadline = absl::ToChronoTime(absl::Now() + timeout);
  for (const std::shared_ptr<grpc::Channel>& channel : channels_) {
    if (!channel->WaitForConnected(deadline)) {
      return absl::UnavailableError(
          absl::StrCat("no server answers at ", options_.server));
    }
  }
  return absl::OkStatus();
}

std::vector<Outcome> LoadRunner::RunOpenLoop(const Arrivals& arrivals,
                                             absl::Duration duration,
                                             Workload& workload) {
  begin_ = std::chrono::steady_clock::now();
  for (const absl::Duration at : arrivals) {
    v1::GenerateImageRequest request = workload.Next();
    absl::SleepFor(at - Now());
    Send(at, std::move(request));
  }
  absl::SleepFor(duration - Now());
  return FinishRun();
}

std::vector<Outcome> LoadRunner::RunClosedLoop(int concurrency,
                                               absl::Duration duration,
                                               Workload& workload) {
  begin_ = std::chrono::steady_clock::now();
  while (Now() < duration) {
    Send(Now(), workload.Next());
    WaitUntilInFlightAtMost(concurrency - 1);
  }
  return FinishRun();
}

void LoadRunner::Send(absl::Duration scheduled,
                      v1::GenerateImageRequest request) {
  auto* const call = new Call(*this, scheduled, std::move(request));
  {
    absl::MutexLock lock(&mu_);
    in_flight_.insert(call);
  }
  const size_t number = sent_++;
  call->Start(*stubs_[number % stubs_.size()],
              options_.tokens.empty()
                  ? ""
                  : options_.tokens[number % options_.tokens.size()],
              absl::Now() + (scheduled + options_.deadline - Now()));
}

void LoadRunner::OnEnd(Call* call, Outcome outcome) {
  absl::MutexLock lock(&mu_);
  outcomes_.push_back(std::move(outcome));
  in_flight_.erase(call);
  delete call;
}

void LoadRunner::WaitUntilInFlightAtMost(size_t count) {
  absl::MutexLock lock(&mu_);
  const auto few = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return in_flight_.size() <= count;
  };
  mu_.Await(absl::Condition(&few));
}

std::vector<Outcome> LoadRunner::FinishRun() {
  if (options_.abandon) {
    absl::MutexLock lock(&mu_);
    for (Call* const call : in_flight_) call->Cancel();
  }
  WaitUntilInFlightAtMost(0);
  absl::MutexLock lock(&mu_);
  return std::move(outcomes_);
}

}  // namespace graft::load
