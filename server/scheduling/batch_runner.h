#ifndef GRAFT_SERVER_SCHEDULING_BATCH_RUNNER_H_
#define GRAFT_SERVER_SCHEDULING_BATCH_RUNNER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/common/clock.h"
#include "server/engine/engine.h"
#include "server/scheduling/active_request.h"
#include "server/scheduling/resident_adapters.h"
#include "server/scheduling/scheduling_policy.h"

namespace graft {

// One image of a batch.
struct BatchMember {
  ActiveRequest* request = nullptr;
  int image_index = 0;
};

// What became of a batch.
struct BatchReport {
  int batch_size = 0;  // images that made the step, or tried to
  // Why no more were chosen. The scheduler's to set.
  BatchStop stop = BatchStop::kFull;
  absl::Duration denoise;  // of the step alone
  SwitchReport adapter_switch;
  bool adapters_merged = false;  // during the step
  int64_t work_done = 0;         // steps x pixels
  bool out_of_memory = false;    // as a batch; each alone was tried after it
  // BASE_WEIGHTS_DRIFT when the switch found that the base cannot be trusted.
  absl::Status drift;
  // IsDeviceLost() when it is; else OK.
  absl::Status device_lost;
};

// Takes a batch through one step: switch to its adapter set, text conditioning
// of images that begin, the denoise step, decoding of images that are complete.
// Before each stage it looks whether the requests are still wanted. Errors end
// the requests that they concern, and no others: those of the switch all of
// the batch, which needs this set; those of a step the images that they name.
// A step that fails as a whole is tried again with each image alone, so that
// the batch never costs a request its success. Owner-thread-only.
class BatchRunner {
 public:
  // Makes room in the device's memory; false if there is nothing that can go.
  using MakeRoom = std::function<bool()>;

  // All outlive the runner. `aborting`: end all at the next stage. `make_room`
  // (null: never) is called for a stage that runs out of memory, which is then
  // tried again.
  BatchRunner(Engine* engine, ResidentAdapters* resident, const Clock* clock,
              const std::atomic<bool>* aborting, MakeRoom make_room)
      : engine_(engine),
        resident_(resident),
        clock_(clock),
        aborting_(aborting),
        make_room_(std::move(make_room)) {}

  // REQUIRES: at least one member; equal batch keys; no request has ended.
  BatchReport RunStep(std::vector<BatchMember> batch);

  // Ends `request` if it is not worth going on with.
  void CheckWanted(ActiveRequest& request) const;

 private:
  using Batch = std::vector<BatchMember>;

  // The stages. Each leaves those in `batch` that go on.
  void Switch(Batch& batch, BatchReport& report);
  void Begin(Batch& batch, BatchReport& report);
  void Step(Batch& batch, BatchReport& report);
  // The previews that are due now.
  void ShowPreviews(Batch& batch, BatchReport& report);
  void Finish(Batch& batch, BatchReport& report);

  // Calls the engine's Step for all of `batch` together, and for each alone if
  // that fails as a whole. A status for each.
  std::vector<absl::Status> StepImages(const Batch& batch, BatchReport& report);

  // Calls `stage`, a call of the engine for a StatusOr, again as long as it
  // runs out of memory and room can be made.
  template <class Stage>
  auto WithRoom(Stage stage) const -> decltype(stage());

  // Whether `status` is for want of memory, and some was made.
  bool MadeRoom(const absl::Status& status) const;
  // WithRoom for a step, which must not be made twice.
  absl::Status StepTogether(absl::Span<Generation* const> generations) const;

  static void Fail(ActiveRequest& request, const absl::Status& status,
                   BatchReport& report);

  // Ends the requests that are not wanted any more, and takes all that have
  // ended out of `batch`.
  void DropUnwanted(Batch& batch) const;

  Engine* const engine_;
  ResidentAdapters* const resident_;
  const Clock* const clock_;
  const std::atomic<bool>* const aborting_;
  const MakeRoom make_room_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_BATCH_RUNNER_H_
