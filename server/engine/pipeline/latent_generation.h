#ifndef GRAFT_SERVER_ENGINE_PIPELINE_LATENT_GENERATION_H_
#define GRAFT_SERVER_ENGINE_PIPELINE_LATENT_GENERATION_H_

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/engine/compute_pool.h"
#include "server/engine/engine.h"
#include "server/engine/generation_params.h"
#include "server/engine/models/unet_2d_condition.h"
#include "server/engine/pipeline/sampler.h"

namespace graft {

// What the U-Net is told about the text.
struct TextConditioning {
  at::Tensor positive;  // [1, t, width]
  at::Tensor negative;  // the same, undefined without guidance
  int truncated_tokens = 0;
  // Which changes of the text encoder it was made with
  // (AdapterSwitcher::text_encoder_state).
  std::string text_encoder_state;
};

// One image on its way: latents in float32, the sampler's state and the random
// generator. The recipe is diffusers' StableDiffusionPipeline.
class LatentGeneration : public Generation {
 public:
  // Draws the initial noise, [1, channels, height, width] in latent pixels,
  // from torch's CPU generator seeded with params.seed.
  LatentGeneration(GenerationParams params, TextConditioning text,
                   std::unique_ptr<Sampler> sampler, at::IntArrayRef shape,
                   at::Device device);

  int steps_done() const override { return sampler_->step(); }
  int steps_total() const override { return sampler_->num_steps(); }
  int truncated_tokens() const override { return text_.truncated_tokens; }
  absl::Status status() const override { return status_; }

  const GenerationParams& params() const { return params_; }
  const at::Tensor& latents() const { return latents_; }
  // As the last step expects them at the end. REQUIRES: steps_done() > 0.
  const at::Tensor& expected_latents() const { return sampler_->original(); }
  const TextConditioning& text() const { return text_; }

  // For the steps from here on.
  void set_text(TextConditioning text);

  // What the U-Net is to see at the next step: latents [n, c, h, w] and text
  // [n, t, width], with n = 2 (negative, positive) where guided, else 1.
  at::Tensor ModelInput() const;
  const at::Tensor& ModelText() const { return batched_text_; }
  double timestep() const { return sampler_->timestep(); }
  int64_t rows() const { return batched_text_.size(0); }

  // One denoise step, from the U-Net's output for ModelInput(), float32.
  // NON_FINITE_LATENTS names the step; what LibTorch throws becomes a Status
  // (torch_status.h). status() repeats the error: half a step cannot be taken
  // back.
  absl::Status Advance(const at::Tensor& output);

 private:
  // The same, but throws what LibTorch throws, and leaves status() as it is.
  absl::Status TryAdvance(const at::Tensor& output);

  const GenerationParams params_;
  TextConditioning text_;
  at::Tensor batched_text_;  // negative and positive where guided
  const std::unique_ptr<Sampler> sampler_;
  at::Generator generator_;
  at::Tensor latents_;
  absl::Status status_;
};

// One denoise step of each, in one run of the U-Net, or, with `threads` and at
// least a row of the batch for each of them, in a run on each with its share of
// the rows. REQUIRES: all have latents of one size. Returns the first error of
// an Advance; the others have done their step. After an exception none has.
absl::Status DenoiseStep(const Unet2dCondition& unet,
                         absl::Span<LatentGeneration* const> batch,
                         ComputePool* threads);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_PIPELINE_LATENT_GENERATION_H_
