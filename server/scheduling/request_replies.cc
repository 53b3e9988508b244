#include "server/scheduling/request_replies.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace graft {

RequestReplies::RequestReplies(std::unique_ptr<GenerationTask> task,
                               Executor* encoder, Executor* replier,
                               const Clock* clock,
                               absl::Duration progress_interval,
                               std::function<void()> on_done)
    : encoder_(encoder),
      replier_(replier),
      clock_(clock),
      progress_interval_(progress_interval),
      told_progress_(static_cast<size_t>(task->count), absl::InfinitePast()),
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

void RequestReplies::Moved(int position, absl::Duration estimated_wait) {
  {
    absl::MutexLock lock(&mu_);
    if (ending_.has_value()) return;
    const bool must_deliver = Append([=](GenerationObserver& observer) {
      observer.OnQueued(position, estimated_wait);
    });
    if (!must_deliver) return;
  }
  ScheduleDelivery();
}

void RequestReplies::Started() {
  std::fill(told_progress_.begin(), told_progress_.end(), clock_->Now());
  Post([](GenerationObserver& observer) { observer.OnStarted(); });
}

void RequestReplies::Progress(int image_index, int step, int steps) {
  const absl::Time now = clock_->Now();
  absl::Time& told = told_progress_[static_cast<size_t>(image_index)];
  if (step < steps && now - told < progress_interval_) return;
  told = now;
  Post([=](GenerationObserver& observer) {
    observer.OnProgress(image_index, step, steps);
  });
}

void RequestReplies::Preview(int image_index, int step, int steps,
                             graft::Image picture) {
  Encode({.image_index = image_index,
          .image = std::move(picture),
          .text = {},
          .preview_step = step,
          .steps = steps});
}

void RequestReplies::Image(int image_index, graft::Image image, PngText text) {
  Encode({.image_index = image_index,
          .image = std::move(image),
          .text = std::move(text)});
}

void RequestReplies::Encode(EncodeJob job) {
  {
    absl::MutexLock lock(&mu_);
    const auto older = std::find_if(
        encode_jobs_.begin(), encode_jobs_.end(), [&](const EncodeJob& other) {
          return other.preview_step > 0 && other.image_index == job.image_index;
        });
    if (older != encode_jobs_.end()) encode_jobs_.erase(older);
    encode_jobs_.push_back(std::move(job));
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
    if (!Append(std::move(event))) return;
  }
  ScheduleDelivery();
}

bool RequestReplies::Append(Event event) {
  events_.push_back(std::move(event));
  return !std::exchange(delivering_, true);
}

void RequestReplies::ScheduleDelivery() {
  replier_->Run([self = shared_from_this()] { self->Deliver(); });
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
  if (job.has_value()) RunJob(*std::move(job));  // else Done() dropped it
  AfterEncode();
}

void RequestReplies::RunJob(EncodeJob job) {
  const absl::Time start = clock_->Now();
  absl::StatusOr<std::string> png = EncodePng(job.image, job.text);
  const absl::Duration duration = clock_->Now() - start;
  {
    absl::MutexLock lock(&mu_);
    encode_time_ += duration;
    if (!png.ok()) encode_status_.Update(png.status());
  }
  if (!png.ok()) return;
  Post([index = job.image_index, step = job.preview_step, steps = job.steps,
        png = *std::move(png)](GenerationObserver& observer) mutable {
    if (step > 0) {
      observer.OnPreview(index, step, steps, std::move(png));
    } else {
      observer.OnImage(index,
                       std::make_shared<const std::string>(std::move(png)));
    }
  });
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
    // Its adapters are free before the client can hear of the end, and unload
    // them. Deliver() keeps the observer.
    task_.reset();
    observer.OnDone(status, summary);
    on_done_();
  });
}

}  // namespace graft
