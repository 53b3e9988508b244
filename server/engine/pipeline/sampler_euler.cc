#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "server/common/status_macros.h"
#include "server/engine/models/config_reader.h"
#include "server/engine/pipeline/noise_schedule.h"
#include "server/engine/pipeline/sampler.h"

namespace graft {
namespace {

struct EulerConfig {
  NoiseSchedule schedule;
  bool ancestral = false;
  bool final_sigma_min = false;  // end at the schedule's first sigma, not at 0
};

// Euler's method on the probability-flow ODE in sigma (arXiv:2206.00364,
// Algorithm 2 without churn), and its ancestral form, which goes a little too
// far down and adds fresh noise back (k-diffusion's sample_euler_ancestral).
class EulerSampler : public Sampler {
 public:
  EulerSampler(std::shared_ptr<const EulerConfig> config, int steps)
      : Sampler(SpacedTimesteps(config->schedule.config(), steps,
                                /*rounded=*/false)),
        config_(std::move(config)) {
    for (const double t : timesteps_) {
      sigmas_.push_back(
          static_cast<float>(config_->schedule.InterpolateSigma(t)));
    }
    sigmas_.push_back(config_->final_sigma_min ? config_->schedule.sigma(0)
                                               : 0.0F);
  }

  double init_noise_sigma() const override {
    const float largest = *std::max_element(sigmas_.begin(), sigmas_.end());
    return config_->schedule.config().spacing == TimestepSpacing::kLeading
               ? std::sqrt(largest * largest + 1)
               : largest;
  }

  at::Tensor ScaleModelInput(const at::Tensor& latents) const override {
    const float sigma = sigmas_[step_];
    return latents / std::sqrt(sigma * sigma + 1);
  }

 protected:
  at::Tensor Advance(const at::Tensor& model_output, const at::Tensor& latents,
                     at::Generator& generator) override {
    const float sigma = sigmas_[step_];
    const float next = sigmas_[step_ + 1];
    if (config_->schedule.config().prediction == PredictionType::kEpsilon) {
      original_ = latents - sigma * model_output;
    } else {
      const float square = sigma * sigma + 1;
      original_ =
          model_output * (-sigma / std::sqrt(square)) + latents / square;
    }
    const at::Tensor derivative = (latents - original_) / sigma;
    if (!config_->ancestral) return latents + derivative * (next - sigma);

    const float up = std::sqrt(next * next * (sigma * sigma - next * next) /
                               (sigma * sigma));
    const float down = std::sqrt(next * next - up * up);
    // The reference draws the noise of the last step too, times zero.
    const at::Tensor noise = at::randn(latents.sizes(), generator,
                                       at::TensorOptions().dtype(at::kFloat))
                                 .to(latents.device());
    return latents + derivative * (down - sigma) + noise * up;
  }

 private:
  const std::shared_ptr<const EulerConfig> config_;
  std::vector<float> sigmas_;  // one more than steps
};

class EulerFactory : public SamplerFactory {
 public:
  explicit EulerFactory(EulerConfig config)
      : config_(std::make_shared<const EulerConfig>(std::move(config))) {}

  absl::StatusOr<std::unique_ptr<Sampler>> Create(int steps) const override {
    GRAFT_RETURN_IF_ERROR(
        CheckSteps(steps, config_->schedule.config().num_train_timesteps));
    return std::make_unique<EulerSampler>(config_, steps);
  }

 private:
  const std::shared_ptr<const EulerConfig> config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const SamplerFactory>> MakeEuler(
    const std::string& path, bool ancestral) {
  GRAFT_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Open(path));
  GRAFT_ASSIGN_OR_RETURN(
      const NoiseScheduleConfig schedule,
      ReadNoiseScheduleConfig(reader, TimestepSpacing::kLinspace));
  EulerConfig config{NoiseSchedule(schedule), ancestral};
  if (!ancestral) {
    const std::string final_sigmas = reader.String("final_sigmas_type", "zero");
    config.final_sigma_min = final_sigmas == "sigma_min";
    if (final_sigmas != "zero" && final_sigmas != "sigma_min") {
      return reader.Unsupported("final_sigmas_type",
                                "is neither \"zero\" nor \"sigma_min\"");
    }
    reader.RequireValue("interpolation_type", "\"linear\"");
    reader.RequireValue("timestep_type", "\"discrete\"");
    reader.RequireValue("use_karras_sigmas", "false");
    reader.RequireValue("use_exponential_sigmas", "false");
    reader.RequireValue("use_beta_sigmas", "false");
  }
  GRAFT_RETURN_IF_ERROR(reader.status());
  return std::make_unique<const EulerFactory>(std::move(config));
}

}  // namespace graft
