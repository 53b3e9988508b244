#include "server/scheduling/batch_runner.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/common/error.h"
#include "server/engine/device_lost.h"
#include "server/scheduling/task_liveness.h"

namespace graft {
namespace {

Generation* GenerationOf(const BatchMember& member) {
  return member.request->generation(member.image_index);
}

bool IsComplete(const Generation& generation) {
  return generation.steps_done() == generation.steps_total();
}

void DropEnded(std::vector<BatchMember>& batch) {
  batch.erase(std::remove_if(batch.begin(), batch.end(),
                             [](const BatchMember& member) {
                               return member.request->ended();
                             }),
              batch.end());
}

// Adds `duration` to a stage's time of each request in `batch`, once.
void AddTime(const std::vector<BatchMember>& batch, absl::Duration duration,
             absl::Duration GenerationTimings::*stage) {
  std::vector<const ActiveRequest*> seen;
  for (const BatchMember& member : batch) {
    if (std::find(seen.begin(), seen.end(), member.request) != seen.end()) {
      continue;
    }
    seen.push_back(member.request);
    member.request->summary().timings.*stage += duration;
  }
}

}  // namespace

BatchReport BatchRunner::RunStep(std::vector<BatchMember> batch) {
  BatchReport report;
  Switch(batch, report);
  Begin(batch, report);
  Step(batch, report);
  ShowPreviews(batch, report);
  Finish(batch, report);
  return report;
}

void BatchRunner::CheckWanted(ActiveRequest& request) const {
  if (request.ended()) return;
  absl::Status status = aborting_->load(std::memory_order_relaxed)
                            ? ShutDownError()
                            : request.CheckLiveness(clock_->Now());
  if (!status.ok()) request.End(std::move(status));
}

void BatchRunner::Switch(Batch& batch, BatchReport& report) {
  DropUnwanted(batch);
  if (batch.empty()) return;
  const GenerationTask& task = batch.front().request->task();
  const Generation* const front = GenerationOf(batch.front());
  const int step = front == nullptr ? 0 : front->steps_done();
  const absl::StatusOr<SwitchReport> switched = WithRoom([&] {
    return resident_->SwitchTo(task.adapters, step, task.params.steps);
  });
  if (switched.ok()) {
    report.adapter_switch = *switched;
    report.adapters_merged = !resident_->empty();
    AddTime(batch, switched->duration, &GenerationTimings::adapter_switch);
    return;
  }
  if (GetErrorReason(switched.status()) == ErrorReason::kBaseWeightsDrift) {
    report.drift = switched.status();
  }
  for (const BatchMember& member : batch) {
    Fail(*member.request, switched.status(), report);
  }
  batch.clear();
}

void BatchRunner::Begin(Batch& batch, BatchReport& report) {
  for (const BatchMember& member : batch) {
    ActiveRequest& request = *member.request;
    if (request.ended() || GenerationOf(member) != nullptr) continue;
    CheckWanted(request);
    if (request.ended()) continue;
    const absl::Time start = clock_->Now();
    const GenerationParams params = request.ParamsOfImage(member.image_index);
    absl::StatusOr<std::unique_ptr<Generation>> generation =
        WithRoom([&] { return engine_->Begin(params); });
    request.summary().timings.text_encode += clock_->Now() - start;
    if (generation.ok()) {
      request.Begin(member.image_index, *std::move(generation));
    } else {
      Fail(request, generation.status(), report);
    }
  }
}

void BatchRunner::Step(Batch& batch, BatchReport& report) {
  DropUnwanted(batch);
  if (batch.empty()) return;
  const absl::Time start = clock_->Now();
  const std::vector<absl::Status> statuses = StepImages(batch, report);
  report.batch_size = static_cast<int>(batch.size());
  report.denoise = clock_->Now() - start;
  AddTime(batch, report.denoise, &GenerationTimings::denoise);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!statuses[i].ok()) Fail(*batch[i].request, statuses[i], report);
  }
  DropEnded(batch);
  for (const BatchMember& member : batch) {
    const GenerationParams& params = member.request->task().params;
    const Generation& generation = *GenerationOf(member);
    report.work_done += int64_t{params.width} * params.height;
    member.request->replies().Progress(
        member.image_index, generation.steps_done(), generation.steps_total());
  }
}

std::vector<absl::Status> BatchRunner::StepImages(const Batch& batch,
                                                  BatchReport& report) {
  std::vector<Generation*> generations;
  generations.reserve(batch.size());
  for (const BatchMember& member : batch) {
    generations.push_back(GenerationOf(member));
  }
  const absl::Status together = StepTogether(generations);

  std::vector<absl::Status> statuses;
  for (const Generation* const generation : generations) {
    statuses.push_back(generation->status());
  }
  const bool names_images =
      std::any_of(statuses.begin(), statuses.end(),
                  [](const absl::Status& status) { return !status.ok(); });
  if (together.ok() || names_images) return statuses;
  if (batch.size() == 1) return {together};

  report.out_of_memory =
      GetErrorReason(together) == ErrorReason::kGpuOutOfMemory;
  for (size_t i = 0; i < generations.size(); ++i) {
    statuses[i] = StepTogether(absl::MakeConstSpan(&generations[i], 1));
  }
  return statuses;
}

void BatchRunner::ShowPreviews(Batch& batch, BatchReport& report) {
  for (const BatchMember& member : batch) {
    ActiveRequest& request = *member.request;
    // Perhaps with the preview of another image of it.
    if (request.ended()) continue;
    const int interval = request.task().preview_interval;
    if (interval == 0) continue;
    const Generation& generation = *GenerationOf(member);
    if (IsComplete(generation) || generation.steps_done() % interval != 0) {
      continue;
    }
    absl::StatusOr<Image> picture =
        WithRoom([&] { return engine_->Preview(generation); });
    if (picture.ok()) {
      request.replies().Preview(member.image_index, generation.steps_done(),
                                generation.steps_total(), *std::move(picture));
    } else {
      Fail(request, picture.status(), report);
    }
  }
  DropEnded(batch);
}

void BatchRunner::Finish(Batch& batch, BatchReport& report) {
  for (const BatchMember& member : batch) {
    ActiveRequest& request = *member.request;
    if (request.ended() || !IsComplete(*GenerationOf(member))) continue;
    CheckWanted(request);
    if (request.ended()) continue;
    const absl::Time start = clock_->Now();
    absl::StatusOr<Image> image =
        WithRoom([&] { return engine_->Finish(*GenerationOf(member)); });
    request.summary().timings.vae_decode += clock_->Now() - start;
    if (image.ok()) {
      request.Finish(member.image_index, *std::move(image), engine_->info());
    } else {
      Fail(request, image.status(), report);
    }
  }
}

template <class Stage>
auto BatchRunner::WithRoom(Stage stage) const -> decltype(stage()) {
  auto result = stage();
  while (MadeRoom(result.status())) result = stage();
  return result;
}

bool BatchRunner::MadeRoom(const absl::Status& status) const {
  return make_room_ != nullptr &&
         GetErrorReason(status) == ErrorReason::kGpuOutOfMemory && make_room_();
}

absl::Status BatchRunner::StepTogether(
    absl::Span<Generation* const> generations) const {
  while (true) {
    const absl::Status status = engine_->Step(generations);
    // Where one image has failed, the others have made their step.
    const bool whole = std::all_of(
        generations.begin(), generations.end(),
        [](const Generation* image) { return image->status().ok(); });
    if (!whole || !MadeRoom(status)) return status;
  }
}

void BatchRunner::Fail(ActiveRequest& request, const absl::Status& status,
                       BatchReport& report) {
  if (IsDeviceLost(status)) report.device_lost = status;
  request.End(status);
}

void BatchRunner::DropUnwanted(Batch& batch) const {
  for (const BatchMember& member : batch) CheckWanted(*member.request);
  DropEnded(batch);
}

}  // namespace graft
