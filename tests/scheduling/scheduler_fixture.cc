#include "tests/scheduling/scheduler_fixture.h"

#include <future>
#include <utility>

#include "gmock/gmock.h"
#include "server/image/png_encoder.h"
#include "server/scheduling/adapters_at_step.h"
#include "server/scheduling/generation_metadata.h"
#include "server/scheduling/weight_schedule.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {

SchedulerFixture::SchedulerFixture()
    : source_({.directory = directory_.path()}) {
  store_ = *AdapterStore::Create(&source_, &engine_);
}

void SchedulerFixture::Start(const RequestScheduler::Options& options) {
  scheduler_ =
      std::make_unique<RequestScheduler>(&engine_, &encoder_, &clock_, options);
}

std::string SchedulerFixture::Load(const std::string& name) {
  directory_.Write(name + ".safetensors", TinyLoraFile(next_variant_++));
  AdapterStore::LoadRequest request;
  request.path = name + ".safetensors";
  const auto result = store_->Load(request);
  EXPECT_THAT(result, IsOk());
  return result->adapter.sha256;
}

std::unique_ptr<GenerationTask> SchedulerFixture::Task(uint64_t seed) {
  auto task = std::make_unique<GenerationTask>();
  task->params.prompt = "a star";
  task->params.width = 16;
  task->params.height = 8;
  task->params.steps = 2;
  task->params.seed = seed;
  return task;
}

std::unique_ptr<GenerationTask> SchedulerFixture::TaskWith(
    const std::string& adapter, double weight, uint64_t seed) {
  std::unique_ptr<GenerationTask> task = Task(seed);
  task->adapters.push_back({*store_->Acquire(adapter), weight, weight});
  return task;
}

Submitted SchedulerFixture::Submit(std::unique_ptr<GenerationTask> task) {
  Submitted submitted;
  task->observer = submitted.observer;
  task->cancelled = submitted.cancelled;
  submitted.accepted = scheduler_->Submit(std::move(task));
  return submitted;
}

Submitted SchedulerFixture::SubmitAndBlockIn(
    Call call, std::unique_ptr<GenerationTask> task) {
  engine_.Block(call);
  Submitted submitted = Submit(std::move(task));
  EXPECT_TRUE(engine_.WaitUntilBlocked(call));
  return submitted;
}

void SchedulerFixture::LetOneStepThrough() {
  const int calls = engine_.calls(Call::kStep);
  engine_.LetOneThrough(Call::kStep);
  EXPECT_TRUE(engine_.WaitUntilCalled(Call::kStep, calls + 1));
}

void SchedulerFixture::HoldDevice() {
  absl::Notification held;
  scheduler_->RunOnOwnerThread([&](Engine&) {
    held.Notify();
    released_.WaitForNotification();
  });
  held.WaitForNotification();
}

void SchedulerFixture::ReleaseDevice() { released_.Notify(); }

std::map<int, std::string> SchedulerFixture::ExpectedImages(
    const GenerationTask& task) const {
  std::vector<FakeSet> sets;
  for (int step = 0; step < task.params.steps; ++step) {
    FakeSet set;
    for (const RequestedAdapter& adapter : task.adapters) {
      WeightRange weights{.weight = adapter.weight,
                          .text_encoder_weight = adapter.text_encoder_weight};
      if (!adapter.schedule.empty()) {
        const WeightRange* const range =
            RangeAtStep(adapter.schedule, step, task.params.steps);
        if (range == nullptr) continue;
        weights = *range;
      }
      set.push_back({adapter.handle.sha256(), weights.weight,
                     weights.text_encoder_weight});
    }
    sets.push_back(std::move(set));
  }
  std::map<int, std::string> images;
  for (int i = 0; i < task.count; ++i) {
    GenerationParams params = task.params;
    params.seed += static_cast<uint64_t>(i);
    images[i] = EncodePng(FakeEngine::ExpectedScheduledImage(params, sets),
                          GenerationMetadata(engine_.info(), params,
                                             ToAppliedAdapters(task.adapters)))
                    .value();
  }
  return images;
}

absl::StatusOr<int64_t> SchedulerFixture::UnloadAndRelease(
    const std::string& name) {
  std::promise<absl::StatusOr<int64_t>> freed;
  store_->Unload(
      name, UnloadMode::kWait, [&](absl::StatusOr<PreparedAdapterPtr> adapter) {
        scheduler_->ReleaseAdapter(
            *std::move(adapter),
            [&](absl::StatusOr<int64_t> bytes) { freed.set_value(bytes); });
      });
  return freed.get_future().get();
}

}  // namespace graft
