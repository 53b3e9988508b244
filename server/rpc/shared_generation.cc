#include "server/rpc/shared_generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"

namespace graft {

bool SharedGeneration::wanted() const {
  absl::MutexLock lock(&mu_);
  return WantedLocked();
}

bool SharedGeneration::WantedLocked() const {
  if (ending_.has_value() && ending_->ok()) return true;
  return !cancel_flag_->load(std::memory_order_relaxed);
}

absl::StatusOr<SharedGeneration::Place> SharedGeneration::TakePlace() {
  absl::MutexLock lock(&mu_);
  if (!WantedLocked()) {
    return Error(ErrorReason::kClientCancelled, "the request was cancelled");
  }
  // Only its end matters.
  Place place(nullptr, [streams = streams_](void*) { --*streams; });
  if (++*streams_ > kMaxStreams) {
    return WithRetryDelay(
        Error(ErrorReason::kQueueFull,
              absl::StrCat(kMaxStreams,
                           " streams of this request are open; read one of "
                           "them, or try again later")),
        absl::Seconds(1));
  }
  ++joining_;
  return place;
}

void SharedGeneration::Join(std::shared_ptr<GenerationObserver> listener) {
  const auto joined = std::make_shared<Listener>();
  joined->observer = std::move(listener);
  {
    absl::MutexLock lock(&mu_);
    --joining_;
    joined->events.assign(kept_.begin(), kept_.end());
    if (!told_all_) listeners_.push_back(joined);
  }
  Deliver(joined);
}

void SharedGeneration::Leave(const GenerationObserver* listener) {
  ListenerPtr left;
  {
    absl::MutexLock lock(&mu_);
    const auto found =
        std::find_if(listeners_.begin(), listeners_.end(),
                     [&](const ListenerPtr& candidate) {
                       return candidate->observer.get() == listener;
                     });
    if (found == listeners_.end()) return;
    if (listeners_.size() == 1 && joining_ == 0) {
      cancel_flag_->store(true, std::memory_order_relaxed);
      return;  // the scheduler ends the request, and this listener hears it
    }
    left = *found;
    listeners_.erase(found);
    left->events = {[](GenerationObserver& observer) {
      observer.OnDone(
          Error(ErrorReason::kClientCancelled, "the client went away"), {});
    }};
  }
  Deliver(left);
}

int64_t SharedGeneration::kept_bytes() const {
  absl::MutexLock lock(&mu_);
  return kept_bytes_;
}

void SharedGeneration::OnQueued(int position, absl::Duration estimated_wait) {
  Tell(
      [=](GenerationObserver& observer) {
        observer.OnQueued(position, estimated_wait);
      },
      /*keep=*/true);
}

void SharedGeneration::OnStarted() {
  Tell([](GenerationObserver& observer) { observer.OnStarted(); },
       /*keep=*/true);
}

void SharedGeneration::OnProgress(int image_index, int step, int steps) {
  Tell(
      [=](GenerationObserver& observer) {
        observer.OnProgress(image_index, step, steps);
      },
      /*keep=*/false);
}

void SharedGeneration::OnPreview(int image_index, int step, int steps,
                                 std::string png) {
  const auto picture = std::make_shared<const std::string>(std::move(png));
  Tell(
      [=](GenerationObserver& observer) {
        observer.OnPreview(image_index, step, steps, *picture);
      },
      /*keep=*/false);
}

void SharedGeneration::OnImage(int image_index,
                               std::shared_ptr<const std::string> png) {
  if (keeps_) {
    absl::MutexLock lock(&mu_);
    kept_bytes_ += static_cast<int64_t>(png->size());
  }
  Tell(
      [image_index, png = std::move(png)](GenerationObserver& observer) {
        observer.OnImage(image_index, png);
      },
      /*keep=*/true);
}

void SharedGeneration::OnDone(const absl::Status& status,
                              const GenerationSummary& summary) {
  {
    absl::MutexLock lock(&mu_);
    ending_ = status;
  }
  on_done_(*this, status, summary);
  Tell([status, summary](
           GenerationObserver& observer) { observer.OnDone(status, summary); },
       /*keep=*/true, /*last=*/true);
}

void SharedGeneration::Tell(const Event& event, bool keep, bool last) {
  std::vector<ListenerPtr> listeners;
  {
    absl::MutexLock lock(&mu_);
    // Nobody waits in vain for the end, at least.
    if (keep && (keeps_ || last)) kept_.push_back(event);
    listeners = listeners_;
    if (last) {
      // With the event that tells them: who leaves now has heard it.
      listeners_.clear();
      told_all_ = true;
    }
    for (const ListenerPtr& listener : listeners) {
      listener->events.push_back(event);
    }
  }
  for (const ListenerPtr& listener : listeners) Deliver(listener);
}

void SharedGeneration::Deliver(const ListenerPtr& listener) {
  {
    absl::MutexLock lock(&mu_);
    if (listener->delivering) return;
    listener->delivering = true;
  }
  while (true) {
    Event event;
    {
      absl::MutexLock lock(&mu_);
      if (listener->events.empty()) {
        listener->delivering = false;
        return;
      }
      event = std::move(listener->events.front());
      listener->events.pop_front();
    }
    event(*listener->observer);
  }
}

}  // namespace graft
