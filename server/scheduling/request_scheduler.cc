#include "server/scheduling/request_scheduler.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/scheduling/request_runner.h"
#include "server/scheduling/task_liveness.h"

namespace graft {

RequestScheduler::RequestScheduler(Engine* engine, Executor* encoder,
                                   const Clock* clock, const Options& options)
    : engine_(engine),
      encoder_(encoder),
      clock_(clock),
      options_(options),
      resident_(engine),
      queue_(options.max_queued_requests),
      owner_thread_([this] { RunOwnerThread(); }) {}

RequestScheduler::~RequestScheduler() {
  Drain(absl::ZeroDuration());
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  owner_thread_.join();
}

absl::Status RequestScheduler::Submit(std::unique_ptr<GenerationTask> task) {
  const absl::Time now = clock_->Now();
  GRAFT_RETURN_IF_ERROR(CheckTaskLiveness(*task, now, {}));

  std::shared_ptr<RequestReplies> replies;
  std::vector<AcceptedRequest> dead;
  int position = 0;
  {
    absl::MutexLock lock(&mu_);
    if (draining_) {
      return WithRetryDelay(
          Error(ErrorReason::kDraining, "the server is shutting down"),
          options_.retry_delay);
    }
    if (queue_.full()) dead = queue_.TakeDead(now);
    if (!queue_.full()) {
      position = queue_.size() + (running_ ? 1 : 0);
      replies = std::make_shared<RequestReplies>(
          std::move(task), encoder_, clock_, [this] { OnRequestDone(); });
      queue_.Push({replies, now});
      ++unfinished_;
    }
  }
  EndDead(dead, now);
  if (replies == nullptr) {
    return WithRetryDelay(
        Error(ErrorReason::kQueueFull,
              absl::StrCat("all ", options_.max_queued_requests,
                           " places in the queue are taken; try again later"),
              {{"max_queued_requests",
                absl::StrCat(options_.max_queued_requests)}}),
        options_.retry_delay);
  }
  replies->Open(position);
  return absl::OkStatus();
}

void RequestScheduler::RunOnOwnerThread(std::function<void(Engine&)> job) {
  absl::MutexLock lock(&mu_);
  jobs_.push_back([this, job = std::move(job)] { job(*engine_); });
}

void RequestScheduler::ReleaseAdapter(
    PreparedAdapterPtr adapter,
    std::function<void(absl::StatusOr<int64_t>)> done) {
  RunOnOwnerThread([this, adapter = std::move(adapter),
                    done = std::move(done)](Engine&) mutable {
    const int64_t bytes = adapter->bytes();
    const absl::Status status = resident_.Release(adapter->sha256());
    adapter.reset();
    if (status.ok()) {
      done(bytes);
    } else {
      done(status);
    }
  });
}

void RequestScheduler::Drain(absl::Duration timeout) {
  const auto all_done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return unfinished_ == 0;
  };
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    if (mu_.AwaitWithTimeout(absl::Condition(&all_done), timeout)) return;
  }
  Abort();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&all_done));
}

void RequestScheduler::Abort() {
  aborting_.store(true, std::memory_order_relaxed);
  std::vector<AcceptedRequest> waiting;
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    waiting = queue_.TakeAll();
  }
  for (const AcceptedRequest& request : waiting) {
    request.replies->Done(ShutDownError(), {});
  }
}

void RequestScheduler::RunOwnerThread() {
  RequestRunner runner(engine_, &resident_, clock_, &aborting_,
                       [this] { EndDeadRequests(); });
  while (true) {
    Work work = AwaitWork();
    if (auto* const job = std::get_if<Job>(&work)) {
      (*job)();
    } else if (auto* const request = std::get_if<AcceptedRequest>(&work)) {
      runner.Run(*request);
      absl::MutexLock lock(&mu_);
      running_ = false;
    } else {
      return;
    }
  }
}

RequestScheduler::Work RequestScheduler::AwaitWork() {
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return stopping_ || !jobs_.empty() || !queue_.empty();
  };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&ready));
  if (!jobs_.empty()) {
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    return job;
  }
  if (queue_.empty()) return Stop{};
  running_ = true;
  return queue_.TakeNext();
}

void RequestScheduler::EndDeadRequests() {
  const absl::Time now = clock_->Now();
  std::vector<AcceptedRequest> dead;
  {
    absl::MutexLock lock(&mu_);
    dead = queue_.TakeDead(now);
  }
  EndDead(dead, now);
}

void RequestScheduler::EndDead(const std::vector<AcceptedRequest>& dead,
                               absl::Time now) {
  for (const AcceptedRequest& request : dead) {
    GenerationSummary summary;
    summary.timings.queue = now - request.accepted_at;
    request.replies->Done(CheckTaskLiveness(request.replies->task(), now, {}),
                          std::move(summary));
  }
}

void RequestScheduler::OnRequestDone() {
  absl::MutexLock lock(&mu_);
  --unfinished_;
}

}  // namespace graft
