#ifndef GRAFT_SERVER_ENGINE_PIPELINE_SAMPLER_H_
#define GRAFT_SERVER_ENGINE_PIPELINE_SAMPLER_H_

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

// Walks one image from noise to latents. Holds the state of one run (which step
// is next, earlier model outputs of multistep methods). All maths in float32.
// Thread-compatible.
class Sampler {
 public:
  virtual ~Sampler() = default;

  int num_steps() const { return static_cast<int>(timesteps_.size()); }
  int step() const { return step_; }

  // The timestep that the U-Net sees at the next step.
  double timestep() const { return timesteps_[step_]; }

  // What the initial unit noise is multiplied with.
  virtual double init_noise_sigma() const { return 1.0; }

  // The latents as the U-Net wants to see them at the next step.
  virtual at::Tensor ScaleModelInput(const at::Tensor& latents) const {
    return latents;
  }

  // The latents that the last step expected at the end: an image's preview.
  // REQUIRES: step() > 0.
  const at::Tensor& original() const { return original_; }

  // The latents after the next step, from the (guided) model output at it.
  // Ancestral samplers draw their noise from `generator`.
  at::Tensor Step(const at::Tensor& model_output, const at::Tensor& latents,
                  at::Generator& generator) {
    at::Tensor next = Advance(model_output, latents, generator);
    ++step_;
    return next;
  }

 protected:
  explicit Sampler(std::vector<double> timesteps)
      : timesteps_(std::move(timesteps)) {}

  // As Step; sets original_.
  virtual at::Tensor Advance(const at::Tensor& model_output,
                             const at::Tensor& latents,
                             at::Generator& generator) = 0;

  const std::vector<double> timesteps_;
  int step_ = 0;
  at::Tensor original_;
};

// One sampler's reading of the model's scheduler config. Immutable.
class SamplerFactory {
 public:
  virtual ~SamplerFactory() = default;

  // A run of `steps`. INVALID_FIELD on "steps" when the schedule cannot be
  // divided so.
  virtual absl::StatusOr<std::unique_ptr<Sampler>> Create(int steps) const = 0;
};

using Samplers =
    std::map<std::string,
             absl::StatusOr<std::unique_ptr<const SamplerFactory>>>;

// All samplers by their names (SamplerNames()), each as diffusers'
// Class.from_config makes it of scheduler_config.json at `path`, or the error
// that says why this config and that sampler do not go together.
Samplers MakeSamplers(const std::string& path);

// The sampler that a scheduler class name stands for: "EulerDiscreteScheduler"
// is "euler"; for one that is not built in (PNDM, UniPC...) "ddim".
std::string DefaultSampler(absl::string_view scheduler_class);

// One file each.
absl::StatusOr<std::unique_ptr<const SamplerFactory>> MakeDdim(
    const std::string& path);
absl::StatusOr<std::unique_ptr<const SamplerFactory>> MakeEuler(
    const std::string& path, bool ancestral);
absl::StatusOr<std::unique_ptr<const SamplerFactory>> MakeDpmpp2m(
    const std::string& path);

// INVALID_FIELD on "steps" unless 1 <= steps <= num_train_timesteps.
absl::Status CheckSteps(int steps, int64_t num_train_timesteps);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_PIPELINE_SAMPLER_H_
