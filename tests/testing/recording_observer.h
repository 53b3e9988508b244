#ifndef GRAFT_TESTS_TESTING_RECORDING_OBSERVER_H_
#define GRAFT_TESTS_TESTING_RECORDING_OBSERVER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// Writes down what a scheduler reports. Thread-safe.
class RecordingObserver : public GenerationObserver {
 public:
  void OnQueued(int position, absl::Duration estimated_wait) override {
    Record(absl::StrCat("queued ", position));
    absl::MutexLock lock(&mu_);
    estimated_wait_ = estimated_wait;
  }
  void OnStarted() override { Record("started"); }
  void OnProgress(int image_index, int step, int steps) override {
    Record(absl::StrCat("progress ", image_index, " ", step, "/", steps));
  }
  void OnPreview(int image_index, int step, int steps,
                 std::string png) override {
    Record(absl::StrCat("preview ", image_index, " ", step, "/", steps));
    absl::MutexLock lock(&mu_);
    last_preview_ = std::move(png);
    if (!previewed_.HasBeenNotified()) previewed_.Notify();
  }
  void OnImage(int image_index,
               std::shared_ptr<const std::string> png) override {
    Record(absl::StrCat("image ", image_index));
    absl::MutexLock lock(&mu_);
    images_[image_index] = *png;
  }
  void OnDone(const absl::Status& status,
              const GenerationSummary& summary) override {
    Record("done");
    {
      absl::MutexLock lock(&mu_);
      status_ = status;
      summary_ = summary;
    }
    done_.Notify();  // dies if OnDone comes twice
  }

  // Waits for OnDone, and returns its status.
  absl::Status Wait() {
    done_.WaitForNotification();
    absl::MutexLock lock(&mu_);
    return status_;
  }

  // Waits for the first preview.
  void WaitForPreview() const { previewed_.WaitForNotification(); }

  bool done() const { return done_.HasBeenNotified(); }

  std::vector<std::string> events() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return events_;
  }
  std::map<int, std::string> images() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return images_;
  }
  std::string last_preview() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return last_preview_;
  }
  GenerationSummary summary() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return summary_;
  }
  absl::Duration estimated_wait() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return estimated_wait_;
  }

 private:
  void Record(std::string event) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
  }

  absl::Notification done_;
  absl::Notification previewed_;
  mutable absl::Mutex mu_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mu_);
  absl::Duration estimated_wait_ ABSL_GUARDED_BY(mu_);
  std::map<int, std::string> images_ ABSL_GUARDED_BY(mu_);
  std::string last_preview_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  GenerationSummary summary_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_RECORDING_OBSERVER_H_
