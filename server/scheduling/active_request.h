#ifndef GRAFT_SERVER_SCHEDULING_ACTIVE_REQUEST_H_
#define GRAFT_SERVER_SCHEDULING_ACTIVE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "server/scheduling/generation_observer.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/scheduling_policy.h"

namespace graft {

// What the policy is told of `task` before the device begins with it.
RequestView ViewOfTask(const GenerationTask& task, int64_t id);

// A request that the device has begun with, and its images on their way. They
// are kept while other requests run, so that it can go on where it was.
// Owner-thread-only.
class ActiveRequest {
 public:
  // Reports that the device begins with `request`.
  ActiveRequest(AcceptedRequest request, const EngineInfo& engine,
                absl::Time now);

  int64_t id() const { return request_.id; }

  // REQUIRES: not ended.
  const GenerationTask& task() const { return request_.replies->task(); }
  RequestReplies& replies() { return *request_.replies; }
  GenerationSummary& summary() { return summary_; }

  // The recipe of image `index`: what a single request for it would say.
  GenerationParams ParamsOfImage(int index) const;

  // The image's generation; nullptr before it has begun and once it is
  // finished.
  Generation* generation(int index) const;
  void Begin(int index, std::unique_ptr<Generation> generation);

  // Reports the finished image, and that all is over after the last one.
  void Finish(int index, Image image, const EngineInfo& engine);

  // OK, or why it is not worth going on: CheckTaskLiveness.
  absl::Status CheckLiveness(absl::Time now) const;

  // Drops what is unfinished and reports that all is over. No effect if it is.
  void End(absl::Status status);
  bool ended() const { return ended_; }

  // Steps x pixels that were not made when it ended.
  int64_t unused_work() const { return unused_work_; }

  // What the policy is told of the unfinished images.
  std::vector<ImageView> Views() const;

 private:
  const AcceptedRequest request_;
  // By index: nullptr before it has begun and once it is finished.
  std::vector<std::unique_ptr<Generation>> generations_;
  // The batch key of every step, unless a schedule makes it change.
  std::optional<std::string> batch_key_;
  int finished_ = 0;  // images; they finish in order
  GenerationSummary summary_;
  bool ended_ = false;
  int64_t unused_work_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_ACTIVE_REQUEST_H_
