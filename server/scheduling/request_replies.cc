#include "server/scheduling/request_replies.h"

#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace graft {

RequestReplies::RequestReplies(std::unique_ptr<GenerationTask> task,
                               Executor* encoder, const Clock* clock,
                               std::function<void()> on_done)
    : encoder_(encoder),
      clock_(clock),
      task_(std::move(task)),
      on_done_(std::move(on_done)) {}

void RequestReplies::Open(int position, absl::Duration estimated_wait) {
  {
    absl::MutexLock lock(&mu_);
    events_.push_front([=](GenerationObserver& observer) {
      observer.OnQueued(position, estimated_wait);
    });
  }
  Deliver();
}

void RequestReplies::Started() {
  Post([](GenerationObserver& observer) { observer.OnStarted(); });
}

void RequestReplies::Progress(int image_index, int step, int steps) {
  Post([=](GenerationObserver& observer) {
    observer.OnProgress(image_index, step, steps);
  });
}

void RequestReplies::Image(int image_index, graft::Image image, PngText text) {
  {
    absl::MutexLock lock(&mu_);
    encode_jobs_.push_back({image_index, std::move(image), std::move(text)});
    if (std::exchange(encoding_, true)) return;
  }
  ScheduleEncode();
}

void RequestReplies::Done(absl::Status status, GenerationSummary summary) {
  {
    absl::MutexLock lock(&mu_);
    if (!status.ok()) encode_jobs_.clear();
    ending_ = Ending{std::move(status), std::move(summary)};
    if (encoding_) return;  // EncodeNext ends the request
  }
  PostEnding();
}

void RequestReplies::Post(Event event) {
  {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
    if (std::exchange(delivering_, true)) return;
  }
  Deliver();
}

void RequestReplies::Deliver() {
  // The final event lets go of the task, and perhaps of the last reference to
  // this object.
  const std::shared_ptr<RequestReplies> self = shared_from_this();
  const std::shared_ptr<GenerationObserver> observer = task_->observer;
  while (true) {
    Event event;
    {
      absl::MutexLock lock(&mu_);
      if (events_.empty()) {
        delivering_ = false;
        return;
      }
      event = std::move(events_.front());
      events_.pop_front();
    }
    event(*observer);
  }
}

void RequestReplies::ScheduleEncode() {
  encoder_->Run([self = shared_from_this()] { self->EncodeNext(); });
}

void RequestReplies::EncodeNext() {
  std::optional<EncodeJob> job;
  {
    absl::MutexLock lock(&mu_);
    if (!encode_jobs_.empty()) {
      job = std::move(encode_jobs_.front());
      encode_jobs_.pop_front();
    }
  }
  if (job.has_value()) {  // else Done() dropped it
    const absl::Time start = clock_->Now();
    absl::StatusOr<std::string> png = EncodePng(job->image, job->text);
    const absl::Duration duration = clock_->Now() - start;
    {
      absl::MutexLock lock(&mu_);
      encode_time_ += duration;
      if (!png.ok()) encode_status_.Update(png.status());
    }
    if (png.ok()) {
      Post([index = job->image_index,
            png = *std::move(png)](GenerationObserver& observer) mutable {
        observer.OnImage(index, std::move(png));
      });
    }
  }
  AfterEncode();
}

void RequestReplies::AfterEncode() {
  bool more = false;
  {
    absl::MutexLock lock(&mu_);
    more = !encode_jobs_.empty();
    encoding_ = more;
    if (!more && !ending_.has_value()) return;
  }
  if (more) {
    ScheduleEncode();
  } else {
    PostEnding();
  }
}

void RequestReplies::PostEnding() {
  absl::Status status;
  GenerationSummary summary;
  {
    absl::MutexLock lock(&mu_);
    status = ending_->status.ok() ? encode_status_ : ending_->status;
    summary = std::move(ending_->summary);
    summary.timings.image_encode = encode_time_;
  }
  Post([this, status = std::move(status),
        summary = std::move(summary)](GenerationObserver& observer) {
    observer.OnDone(status, summary);
    task_.reset();
    on_done_();
  });
}

}  // namespace graft
