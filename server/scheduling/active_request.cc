#include "server/scheduling/active_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduling/adapters_at_step.h"
#include "server/scheduling/generation_metadata.h"
#include "server/scheduling/task_liveness.h"

namespace graft {
namespace {

// Images of `task` whose next step is `step` share a batch with all images that
// need the same weights and have the same size.
std::string BatchKey(const GenerationTask& task, int step) {
  const GenerationParams& params = task.params;
  return absl::StrCat(
      params.width, "x", params.height, " ",
      AdapterSetKey(AdaptersAtStep(task.adapters, step, params.steps)));
}

bool HasSchedule(const GenerationTask& task) {
  return std::any_of(task.adapters.begin(), task.adapters.end(),
                     [](const RequestedAdapter& adapter) {
                       return !adapter.schedule.empty();
                     });
}

int StepsDone(const Generation* generation) {
  return generation == nullptr ? 0 : generation->steps_done();
}

ImageView ViewOfImage(const GenerationTask& task, int index,
                      const Generation* generation, std::string batch_key) {
  const GenerationParams& params = task.params;
  const int steps_left = params.steps - StepsDone(generation);
  return {.index = index,
          .batch_key = std::move(batch_key),
          .work_left = int64_t{steps_left} * params.width * params.height,
          .begun = generation != nullptr};
}

}  // namespace

RequestView ViewOfTask(const GenerationTask& task, int64_t id) {
  RequestView view{
      .id = id, .tenant = task.tenant, .priority = task.priority, .images = {}};
  view.images.assign(static_cast<size_t>(task.count),
                     ViewOfImage(task, 0, nullptr, BatchKey(task, 0)));
  for (int i = 0; i < task.count; ++i) {
    view.images[static_cast<size_t>(i)].index = i;
  }
  return view;
}

ActiveRequest::ActiveRequest(AcceptedRequest request, const EngineInfo& engine,
                             absl::Time now)
    : request_(std::move(request)),
      generations_(static_cast<size_t>(task().count)) {
  summary_.adapters = ToAppliedAdapters(task().adapters);
  summary_.base_sha256 = engine.base_sha256;
  summary_.timings.adapter_load = task().adapter_load;
  summary_.timings.queue = now - request_.accepted_at;
  if (!HasSchedule(task())) batch_key_ = BatchKey(task(), 0);
  replies().Started();
}

GenerationParams ActiveRequest::ParamsOfImage(int index) const {
  GenerationParams params = task().params;
  params.seed += static_cast<uint64_t>(index);
  return params;
}

Generation* ActiveRequest::generation(int index) const {
  return generations_[static_cast<size_t>(index)].get();
}

void ActiveRequest::Begin(int index, std::unique_ptr<Generation> generation) {
  summary_.truncated_tokens = generation->truncated_tokens();
  generations_[static_cast<size_t>(index)] = std::move(generation);
}

void ActiveRequest::Finish(int index, Image image, const EngineInfo& engine) {
  const GenerationParams params = ParamsOfImage(index);
  generations_[static_cast<size_t>(index)].reset();
  summary_.seeds.push_back(params.seed);
  replies().Image(index, std::move(image),
                  GenerationMetadata(engine, params, summary_.adapters));
  if (++finished_ == task().count) End(absl::OkStatus());
}

absl::Status ActiveRequest::CheckLiveness(absl::Time now) const {
  TaskProgress progress{.started = true};
  progress.image_index = finished_;
  if (const Generation* const front = generation(finished_)) {
    progress.steps_done = front->steps_done();
  }
  return CheckTaskLiveness(task(), now, progress);
}

void ActiveRequest::End(absl::Status status) {
  if (std::exchange(ended_, true)) return;
  for (const ImageView& image : Views()) unused_work_ += image.work_left;
  generations_.clear();
  replies().Done(std::move(status), std::move(summary_));
}

std::vector<ImageView> ActiveRequest::Views() const {
  std::vector<ImageView> views;
  for (int i = finished_; i < task().count; ++i) {
    const Generation* const begun = generation(i);
    views.push_back(ViewOfImage(task(), i, begun,
                                batch_key_.has_value()
                                    ? *batch_key_
                                    : BatchKey(task(), StepsDone(begun))));
  }
  return views;
}

}  // namespace graft
