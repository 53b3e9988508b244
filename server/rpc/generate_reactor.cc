#include "server/rpc/generate_reactor.h"

#include <grpc/support/time.h>

#include <chrono>
#include <string>
#include <utility>

#include "server/common/error.h"

namespace graft {

// Passes the scheduler's reports on. Holds the reactor, which gRPC may be done
// with while the scheduler still works.
class GenerateReactor::Observer : public GenerationObserver {
 public:
  explicit Observer(std::shared_ptr<GenerateReactor> reactor)
      : reactor_(std::move(reactor)) {}

  void OnQueued(int position, absl::Duration estimated_wait) override {
    reactor_->Buffer([&](ReplyBuffer& buffer) {
      buffer.AddQueued(position, estimated_wait);
    });
  }
  void OnStarted() override {
    reactor_->Buffer([](ReplyBuffer& buffer) { buffer.AddStarted(); });
  }
  void OnProgress(int image_index, int step, int steps) override {
    reactor_->Buffer([&](ReplyBuffer& buffer) {
      buffer.AddProgress(image_index, step, steps);
    });
  }
  void OnPreview(int image_index, int step, int steps,
                 std::string png) override {
    reactor_->Buffer([&](ReplyBuffer& buffer) {
      buffer.AddPreview(image_index, step, steps, std::move(png));
    });
  }
  void OnImage(int image_index,
               std::shared_ptr<const std::string> png) override {
    reactor_->Buffer([&](ReplyBuffer& buffer) {
      buffer.AddImage(image_index, std::move(png));
    });
  }
  void OnDone(const absl::Status& status,
              const GenerationSummary& summary) override {
    reactor_->End(status, summary);
  }

 private:
  const std::shared_ptr<GenerateReactor> reactor_;
};

std::shared_ptr<GenerateReactor> GenerateReactor::Create(
    const RpcEnvironment& environment, grpc::CallbackServerContext* context,
    const v1::GenerateImageRequest& request, OpenStreams& streams) {
  std::shared_ptr<GenerateReactor> reactor(
      new GenerateReactor(environment, context, request, streams));
  reactor->self_ = reactor;
  return reactor;
}

GenerateReactor::GenerateReactor(const RpcEnvironment& environment,
                                 grpc::CallbackServerContext* context,
                                 const v1::GenerateImageRequest& request,
                                 OpenStreams& streams)
    : write_timeout_(environment.write_timeout),
      context_(context),
      streams_(streams),
      call_(environment.hooks, environment.clock, *context, "GenerateImage",
            request.request_id()) {
  streams_.Enter();
}

void GenerateReactor::Listen(
    const std::shared_ptr<SharedGeneration>& generation,
    SharedGeneration::Place place) {
  const auto observer = std::make_shared<Observer>(self_);
  {
    absl::MutexLock lock(&mu_);
    buffer_.emplace(call_.context().request_id, generation->first_seed());
    generation_ = generation;
    observer_ = observer;
    place_ = std::move(place);
  }
  generation->Join(observer);
  bool left = false;
  {
    absl::MutexLock lock(&mu_);
    left = left_;  // perhaps before there was anything to leave
  }
  if (left) generation->Leave(observer.get());
}

void GenerateReactor::Fail(const absl::Status& status) { End(status, {}); }

void GenerateReactor::End(const absl::Status& status,
                          const GenerationSummary& summary) {
  Next next;
  {
    absl::MutexLock lock(&mu_);
    if (status.ok()) {
      buffer_->AddFinished(summary);
    } else if (buffer_.has_value()) {
      buffer_->Clear();
    }
    ending_ = status;
    generation_.reset();
    observer_.reset();
    next = NextLocked();
  }
  Act(next);
}

void GenerateReactor::Leave() {
  std::shared_ptr<SharedGeneration> generation;
  std::shared_ptr<Observer> observer;
  {
    absl::MutexLock lock(&mu_);
    left_ = true;
    generation = generation_;
    observer = observer_;
  }
  if (generation != nullptr) generation->Leave(observer.get());
}

template <typename Change>
void GenerateReactor::Buffer(const Change& change) {
  Next next;
  {
    absl::MutexLock lock(&mu_);
    change(*buffer_);
    next = NextLocked();
  }
  Act(next);
}

GenerateReactor::Next GenerateReactor::NextLocked() {
  if (writing_ || finished_) return {};
  if (!broken_ && buffer_.has_value()) {
    if (auto message = buffer_->Next(); message.has_value()) {
      message_ = *std::move(message);
      writing_ = true;
      write_began_ = std::chrono::steady_clock::now();
      if (!timer_runs_) StartTimer(write_began_);
      return {Next::kWrite};
    }
  }
  if (!ending_.has_value()) return {};
  if (timer_runs_) {
    timer_->Cancel();  // OnTimer goes on; no harm in a second time
    return {};
  }
  finished_ = true;
  if (ending_->ok() && broken_) {
    return {Next::kFinish,
            Error(ErrorReason::kClientCancelled,
                  "the client went away before it had read everything")};
  }
  return {Next::kFinish, *ending_};
}

void GenerateReactor::Act(const Next& next) {
  switch (next.kind) {
    case Next::kNothing:
      break;
    case Next::kWrite:
      StartWrite(&message_);
      break;
    case Next::kFinish:
      Finish(call_.Finish(next.ending));
      break;
  }
}

void GenerateReactor::StartTimer(SteadyTime began) {
  const auto passed = std::chrono::steady_clock::now() - began;
  const absl::Duration left = write_timeout_ - absl::FromChrono(passed);
  timer_runs_ = true;
  // A new one, as this may be called by the old one's callback. Not self_: the
  // timer would keep the reactor that owns it for ever. The callback holds it
  // only while it runs; it is there until then, as the stream is not finished
  // while timer_runs_.
  timer_ = std::make_unique<grpc::Alarm>();
  timer_->Set(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                           gpr_time_from_nanos(absl::ToInt64Nanoseconds(left),
                                               GPR_TIMESPAN)),
              [weak = std::weak_ptr<GenerateReactor>(self_)](bool expired) {
                const std::shared_ptr<GenerateReactor> self = weak.lock();
                if (self != nullptr) self->OnTimer(expired);
              });
}

void GenerateReactor::OnTimer(bool expired) {
  bool timed_out = false;
  {
    absl::MutexLock lock(&mu_);
    if (expired && writing_) {
      const auto age = std::chrono::steady_clock::now() - write_began_;
      timed_out = absl::FromChrono(age) >= write_timeout_;
      if (!timed_out) {
        StartTimer(write_began_);
        return;
      }
    }
  }
  if (timed_out) {
    Leave();
    context_->TryCancel();  // ends the write
  }
  Next next;
  {
    absl::MutexLock lock(&mu_);
    timer_runs_ = false;
    next = NextLocked();
  }
  Act(next);
}

void GenerateReactor::OnWriteDone(bool ok) {
  Next next;
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) broken_ = true;
    next = NextLocked();
  }
  Act(next);
}

void GenerateReactor::OnCancel() { Leave(); }

void GenerateReactor::OnDone() {
  streams_.Leave();
  self_.reset();
}

}  // namespace graft
