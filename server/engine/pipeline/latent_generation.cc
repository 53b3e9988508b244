#include "server/engine/pipeline/latent_generation.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/engine/torch_status.h"

namespace graft {

LatentGeneration::LatentGeneration(GenerationParams params,
                                   TextConditioning text,
                                   std::unique_ptr<Sampler> sampler,
                                   at::IntArrayRef shape, at::Device device)
    : params_(std::move(params)),
      sampler_(std::move(sampler)),
      generator_(at::detail::createCPUGenerator(params_.seed)) {
  set_text(std::move(text));
  latents_ = at::randn(shape, generator_, at::TensorOptions().dtype(at::kFloat))
                 .to(device) *
             sampler_->init_noise_sigma();
}

void LatentGeneration::set_text(TextConditioning text) {
  text_ = std::move(text);
  batched_text_ = text_.negative.defined()
                      ? at::cat({text_.negative, text_.positive})
                      : text_.positive;
}

at::Tensor LatentGeneration::ModelInput() const {
  const at::Tensor input = sampler_->ScaleModelInput(latents_);
  return text_.negative.defined() ? at::cat({input, input}) : input;
}

absl::Status LatentGeneration::Advance(const at::Tensor& output) {
  // Caught here, not above the batch: the others' steps are done, and would be
  // repeated with the batch.
  status_ = CatchTorchErrors([&] { return TryAdvance(output); });
  return status_;
}

absl::Status LatentGeneration::TryAdvance(const at::Tensor& output) {
  at::Tensor guided = output;
  if (text_.negative.defined()) {
    const auto halves = output.chunk(2);
    guided = halves[0] + params_.guidance_scale * (halves[1] - halves[0]);
  }
  const int step = sampler_->step() + 1;
  latents_ = sampler_->Step(guided, latents_, generator_);
  if (latents_.isfinite().all().item<bool>()) return absl::OkStatus();
  return Error(ErrorReason::kNonFiniteLatents,
               absl::StrCat("the latents are not finite after step ", step,
                            "; use smaller adapter weights or a wider --dtype"),
               {{"step", absl::StrCat(step)}});
}

namespace {

// What the U-Net says of each row, float32.
at::Tensor RunUnet(const Unet2dCondition& unet, const at::Tensor& latents,
                   const std::vector<double>& timesteps, const at::Tensor& text,
                   ComputePool* threads) {
  const auto rows = static_cast<int64_t>(timesteps.size());
  if (threads == nullptr || rows < threads->threads()) {
    return unet.Forward(latents, timesteps, text).to(at::kFloat);
  }
  std::vector<at::Tensor> outputs(static_cast<size_t>(threads->threads()));
  threads->RunOnAll([&](int i) {
    const int64_t from = rows * i / threads->threads();
    const int64_t to = rows * (i + 1) / threads->threads();
    outputs[static_cast<size_t>(i)] =
        unet.Forward(latents.slice(0, from, to),
                     at::ArrayRef<double>(timesteps).slice(from, to - from),
                     text.slice(0, from, to))
            .to(at::kFloat);
  });
  return at::cat(outputs);
}

}  // namespace

absl::Status DenoiseStep(const Unet2dCondition& unet,
                         absl::Span<LatentGeneration* const> batch,
                         ComputePool* threads) {
  std::vector<at::Tensor> inputs, texts;
  std::vector<double> timesteps;
  for (const LatentGeneration* const generation : batch) {
    inputs.push_back(generation->ModelInput());
    texts.push_back(generation->ModelText());
    timesteps.insert(timesteps.end(), generation->rows(),
                     generation->timestep());
  }
  const at::Tensor output =
      RunUnet(unet, at::cat(inputs), timesteps, at::cat(texts), threads);
  absl::Status status;
  int64_t row = 0;
  for (LatentGeneration* const generation : batch) {
    const int64_t rows = generation->rows();
    status.Update(generation->Advance(output.slice(0, row, row + rows)));
    row += rows;
  }
  return status;
}

}  // namespace graft
