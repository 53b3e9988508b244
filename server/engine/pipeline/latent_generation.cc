#include "server/engine/pipeline/latent_generation.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {

LatentGeneration::LatentGeneration(TextConditioning text, double guidance_scale,
                                   std::unique_ptr<Sampler> sampler,
                                   uint64_t seed, at::IntArrayRef shape,
                                   at::Device device)
    : text_(std::move(text)),
      batched_text_(text_.negative.defined()
                        ? at::cat({text_.negative, text_.positive})
                        : text_.positive),
      guidance_scale_(guidance_scale),
      sampler_(std::move(sampler)),
      generator_(at::detail::createCPUGenerator(seed)) {
  latents_ = at::randn(shape, generator_, at::TensorOptions().dtype(at::kFloat))
                 .to(device) *
             sampler_->init_noise_sigma();
}

at::Tensor LatentGeneration::Predict(const Unet2dCondition& unet) const {
  const at::Tensor input = sampler_->ScaleModelInput(latents_);
  if (!text_.negative.defined()) {
    return unet.Forward(input, sampler_->timestep(), batched_text_)
        .to(at::kFloat);
  }
  const auto halves =
      unet.Forward(at::cat({input, input}), sampler_->timestep(), batched_text_)
          .to(at::kFloat)
          .chunk(2);
  return halves[0] + guidance_scale_ * (halves[1] - halves[0]);
}

absl::Status LatentGeneration::Step(const Unet2dCondition& unet) {
  const int step = sampler_->step() + 1;
  latents_ = sampler_->Step(Predict(unet), latents_, generator_);
  if (latents_.isfinite().all().item<bool>()) return absl::OkStatus();
  return Error(ErrorReason::kNonFiniteLatents,
               absl::StrCat("the latents are not finite after step ", step,
                            "; use smaller adapter weights or a wider --dtype"),
               {{"step", absl::StrCat(step)}});
}

}  // namespace graft
