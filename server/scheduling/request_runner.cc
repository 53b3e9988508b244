#include "server/scheduling/request_runner.h"

#include <memory>
#include <utility>

#include "absl/types/span.h"
#include "server/common/status_macros.h"
#include "server/scheduling/generation_metadata.h"

namespace graft {
namespace {

// The recipe of image `index`: what a single request for it would say.
GenerationParams ParamsOfImage(const GenerationTask& task, int index) {
  GenerationParams params = task.params;
  params.seed += static_cast<uint64_t>(index);
  return params;
}

// Adds the time from construction to destruction to `*sum`.
class StageTimer {
 public:
  StageTimer(const Clock* clock, absl::Duration* sum)
      : clock_(clock), sum_(sum), start_(clock->Now()) {}
  ~StageTimer() { *sum_ += clock_->Now() - start_; }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  const Clock* const clock_;
  absl::Duration* const sum_;
  const absl::Time start_;
};

}  // namespace

RequestRunner::RequestRunner(Engine* engine, ResidentAdapters* resident,
                             const Clock* clock,
                             const std::atomic<bool>* aborting,
                             std::function<void()> between_steps)
    : engine_(engine),
      resident_(resident),
      clock_(clock),
      aborting_(aborting),
      between_steps_(std::move(between_steps)) {}

void RequestRunner::Run(const AcceptedRequest& request) {
  const GenerationTask& task = request.replies->task();
  Context context{*request.replies, task, {}, {}};
  context.summary.adapters = ToAppliedAdapters(task.adapters);
  context.summary.base_sha256 = engine_->info().base_sha256;
  context.summary.timings.queue = clock_->Now() - request.accepted_at;
  absl::Status status = RunStages(context);
  request.replies->Done(std::move(status), std::move(context.summary));
}

absl::Status RequestRunner::RunStages(Context& context) {
  GRAFT_RETURN_IF_ERROR(Check(context));
  context.progress.started = true;
  context.replies.Started();
  GRAFT_RETURN_IF_ERROR(Switch(context));
  for (int i = 0; i < context.task.count; ++i) {
    GRAFT_RETURN_IF_ERROR(MakeImage(context, i));
  }
  return absl::OkStatus();
}

absl::Status RequestRunner::Switch(Context& context) {
  GRAFT_ASSIGN_OR_RETURN(const SwitchReport report,
                         resident_->SwitchTo(context.task.adapters));
  context.summary.timings.adapter_switch = report.duration;
  return absl::OkStatus();
}

absl::Status RequestRunner::MakeImage(Context& context, int index) {
  const GenerationParams params = ParamsOfImage(context.task, index);
  GenerationTimings& timings = context.summary.timings;
  context.progress.image_index = index;
  context.progress.steps_done = 0;

  GRAFT_RETURN_IF_ERROR(Check(context));
  std::unique_ptr<Generation> generation;
  {
    const StageTimer timer(clock_, &timings.text_encode);
    GRAFT_ASSIGN_OR_RETURN(generation, engine_->Begin(params));
  }
  context.summary.truncated_tokens = generation->truncated_tokens();
  GRAFT_RETURN_IF_ERROR(Denoise(context, *generation));

  GRAFT_RETURN_IF_ERROR(Check(context));
  Image image;
  {
    const StageTimer timer(clock_, &timings.vae_decode);
    GRAFT_ASSIGN_OR_RETURN(image, engine_->Finish(*generation));
  }
  context.summary.seeds.push_back(params.seed);
  context.replies.Image(
      index, std::move(image),
      GenerationMetadata(engine_->info(), params, context.summary.adapters));
  return absl::OkStatus();
}

absl::Status RequestRunner::Denoise(Context& context, Generation& generation) {
  const StageTimer timer(clock_, &context.summary.timings.denoise);
  Generation* const batch[] = {&generation};
  while (generation.steps_done() < generation.steps_total()) {
    GRAFT_RETURN_IF_ERROR(Check(context));
    GRAFT_RETURN_IF_ERROR(engine_->Step(absl::MakeConstSpan(batch)));
    context.progress.steps_done = generation.steps_done();
    context.replies.Progress(context.progress.image_index,
                             generation.steps_done(), generation.steps_total());
  }
  return absl::OkStatus();
}

absl::Status RequestRunner::Check(const Context& context) const {
  between_steps_();
  if (aborting_->load(std::memory_order_relaxed)) return ShutDownError();
  return CheckTaskLiveness(context.task, clock_->Now(), context.progress);
}

}  // namespace graft
