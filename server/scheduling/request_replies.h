#ifndef GRAFT_SERVER_SCHEDULING_REQUEST_REPLIES_H_
#define GRAFT_SERVER_SCHEDULING_REQUEST_REPLIES_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/common/clock.h"
#include "server/common/executor.h"
#include "server/image/image.h"
#include "server/image/png_encoder.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/generation_task.h"

namespace graft {

// Owns one accepted task and carries its results to its observer: one call at a
// time, images in order, OnDone last. Images are encoded on one executor and
// the observer is called on another, so the device goes on meanwhile.
//
// Order of calls: Open() once; then, from one thread at a time, Started(),
// Progress(), Preview() and Image() as often as needed, and Done() once. Open()
// may come late: what was reported before it waits for it. Thread-safe.
class RequestReplies : public std::enable_shared_from_this<RequestReplies> {
 public:
  // `on_done` is called after the observer's OnDone, with the task (and the
  // adapters that it pins) released. `encoder`, `replier`, which calls the
  // observer, and `clock` outlive this object. An image's progress is reported
  // once per `progress_interval` at most, and at its last step.
  RequestReplies(std::unique_ptr<GenerationTask> task, Executor* encoder,
                 Executor* replier, const Clock* clock,
                 absl::Duration progress_interval,
                 std::function<void()> on_done);

  // The task. REQUIRES: Done() was not called.
  const GenerationTask& task() const { return *task_; }

  // Reports the place in the queue, from this thread, and lets everything else
  // follow.
  void Open(int position, absl::Duration estimated_wait);

  // Reports another place in the queue, unless the request is over. Any thread.
  void Moved(int position, absl::Duration estimated_wait);

  void Started();
  void Progress(int image_index, int step, int steps);

  // Encodes `picture` and reports it as a preview, unless one that waits for
  // the encoder is older: it takes that one's place.
  void Preview(int image_index, int step, int steps, graft::Image picture);

  // Encodes `image` with `text` and reports the file.
  void Image(int image_index, graft::Image image, PngText text);

  // Ends the request. When `status` is OK, the images handed over so far are
  // encoded and reported first, and an encoder's error replaces it; else those
  // still waiting for the encoder are dropped.
  void Done(absl::Status status, GenerationSummary summary);

 private:
  using Event = std::function<void(GenerationObserver&)>;
  struct EncodeJob {
    int image_index = 0;
    graft::Image image;
    PngText text;
    int preview_step = 0;  // 0: no preview, but the image
    int steps = 0;
  };
  struct Ending {
    absl::Status status;
    GenerationSummary summary;
  };

  // Appends `event`, and has it delivered.
  void Post(Event event) ABSL_LOCKS_EXCLUDED(mu_);

  // Appends `event`; true if ScheduleDelivery() must follow, as nobody is at
  // it.
  bool Append(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Has the replier call Deliver.
  void ScheduleDelivery();

  // Calls the observer until no event is left. REQUIRES: this thread set
  // delivering_.
  void Deliver() ABSL_LOCKS_EXCLUDED(mu_);

  // Queues `job`, in place of an older preview of the same image.
  void Encode(EncodeJob job) ABSL_LOCKS_EXCLUDED(mu_);

  // Encodes the first waiting image, then sees to the rest. Executor thread.
  void EncodeNext() ABSL_LOCKS_EXCLUDED(mu_);

  // Goes on with the next image, or with the end of the request.
  void AfterEncode() ABSL_LOCKS_EXCLUDED(mu_);

  // Encodes and reports.
  void RunJob(EncodeJob job) ABSL_LOCKS_EXCLUDED(mu_);

  // Has the executor call EncodeNext.
  void ScheduleEncode();

  // Posts the final event.
  void PostEnding() ABSL_LOCKS_EXCLUDED(mu_);

  Executor* const encoder_;
  Executor* const replier_;
  const Clock* const clock_;
  const absl::Duration progress_interval_;
  // When each image's progress was reported, or the request begun. Of the
  // thread that reports.
  std::vector<absl::Time> told_progress_;

  absl::Mutex mu_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mu_);
  // Somebody is calling the observer; true until Open() so that events wait.
  bool delivering_ ABSL_GUARDED_BY(mu_) = true;
  std::deque<EncodeJob> encode_jobs_ ABSL_GUARDED_BY(mu_);
  bool encoding_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status encode_status_ ABSL_GUARDED_BY(mu_);
  absl::Duration encode_time_ ABSL_GUARDED_BY(mu_);
  std::optional<Ending> ending_ ABSL_GUARDED_BY(mu_);

  // Written by the final event alone; read before Done() only.
  std::unique_ptr<GenerationTask> task_;
  std::function<void()> on_done_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_REQUEST_REPLIES_H_
