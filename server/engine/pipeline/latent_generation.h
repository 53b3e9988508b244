#ifndef GRAFT_SERVER_ENGINE_PIPELINE_LATENT_GENERATION_H_
#define GRAFT_SERVER_ENGINE_PIPELINE_LATENT_GENERATION_H_

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "server/engine/engine.h"
#include "server/engine/models/unet_2d_condition.h"
#include "server/engine/pipeline/sampler.h"

namespace graft {

// What the U-Net is told about the text.
struct TextConditioning {
  at::Tensor positive;  // [1, t, width]
  at::Tensor negative;  // the same, undefined without guidance
  int truncated_tokens = 0;
};

// One image on its way: latents in float32, the sampler's state and the random
// generator. The recipe is diffusers' StableDiffusionPipeline.
class LatentGeneration : public Generation {
 public:
  // Draws the initial noise, [1, channels, height, width] in latent pixels,
  // from torch's CPU generator seeded with `seed`.
  LatentGeneration(TextConditioning text, double guidance_scale,
                   std::unique_ptr<Sampler> sampler, uint64_t seed,
                   at::IntArrayRef shape, at::Device device);

  int steps_done() const override { return sampler_->step(); }
  int steps_total() const override { return sampler_->num_steps(); }
  int truncated_tokens() const override { return text_.truncated_tokens; }

  // One denoise step. NON_FINITE_LATENTS names the step.
  absl::Status Step(const Unet2dCondition& unet);

  const at::Tensor& latents() const { return latents_; }

 private:
  at::Tensor Predict(const Unet2dCondition& unet) const;

  const TextConditioning text_;
  const at::Tensor batched_text_;  // negative and positive where guided
  const double guidance_scale_;
  const std::unique_ptr<Sampler> sampler_;
  at::Generator generator_;
  at::Tensor latents_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_PIPELINE_LATENT_GENERATION_H_
