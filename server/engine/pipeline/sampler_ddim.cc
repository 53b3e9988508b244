#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/engine/models/config_reader.h"
#include "server/engine/pipeline/noise_schedule.h"
#include "server/engine/pipeline/sampler.h"

namespace graft {
namespace {

struct DdimConfig {
  NoiseSchedule schedule;
  bool clip_sample = true;
  double clip_sample_range = 1.0;
  bool set_alpha_to_one = true;
};

// DDIM (arXiv:2010.02502) with eta = 0, formula (12).
class DdimSampler : public Sampler {
 public:
  DdimSampler(std::shared_ptr<const DdimConfig> config, int steps)
      : Sampler(SpacedTimesteps(config->schedule.config(), steps,
                                /*rounded=*/true)),
        config_(std::move(config)),
        stride_(config_->schedule.config().num_train_timesteps / steps) {}

 protected:
  at::Tensor Advance(const at::Tensor& model_output, const at::Tensor& latents,
                     at::Generator&) override {
    const auto t = static_cast<int64_t>(timestep());
    const int64_t previous = t - stride_;
    const float alpha = config_->schedule.alpha_cumprod(t);
    const float alpha_previous =
        previous >= 0               ? config_->schedule.alpha_cumprod(previous)
        : config_->set_alpha_to_one ? 1.0F
                                    : config_->schedule.alpha_cumprod(0);
    const float root_alpha = std::sqrt(alpha);
    const float root_beta = std::sqrt(1 - alpha);
    at::Tensor epsilon;
    if (config_->schedule.config().prediction == PredictionType::kEpsilon) {
      original_ = (latents - root_beta * model_output) / root_alpha;
      epsilon = model_output;
    } else {
      original_ = root_alpha * latents - root_beta * model_output;
      epsilon = root_alpha * model_output + root_beta * latents;
    }
    if (config_->clip_sample) {
      original_ = original_.clamp(-config_->clip_sample_range,
                                  config_->clip_sample_range);
    }
    return std::sqrt(alpha_previous) * original_ +
           std::sqrt(1 - alpha_previous) * epsilon;
  }

 private:
  const std::shared_ptr<const DdimConfig> config_;
  const int64_t stride_;
};

class DdimFactory : public SamplerFactory {
 public:
  explicit DdimFactory(DdimConfig config)
      : config_(std::make_shared<const DdimConfig>(std::move(config))) {}

  absl::StatusOr<std::unique_ptr<Sampler>> Create(int steps) const override {
    const NoiseScheduleConfig& schedule = config_->schedule.config();
    GRAFT_RETURN_IF_ERROR(CheckSteps(steps, schedule.num_train_timesteps));
    auto sampler = std::make_unique<DdimSampler>(config_, steps);
    // With steps_offset the first timestep can lie beyond the schedule.
    if (sampler->timestep() >=
        static_cast<double>(schedule.num_train_timesteps)) {
      return InvalidField("steps",
                          absl::StrCat(steps,
                                       " steps with the model's "
                                       "steps_offset leave the schedule; "
                                       "use fewer"));
    }
    return sampler;
  }

 private:
  const std::shared_ptr<const DdimConfig> config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const SamplerFactory>> MakeDdim(
    const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Open(path));
  GRAFT_ASSIGN_OR_RETURN(
      const NoiseScheduleConfig schedule,
      ReadNoiseScheduleConfig(reader, TimestepSpacing::kLeading));
  DdimConfig config{NoiseSchedule(schedule)};
  config.clip_sample = reader.Bool("clip_sample", true);
  config.clip_sample_range = reader.Double("clip_sample_range", 1.0);
  config.set_alpha_to_one = reader.Bool("set_alpha_to_one", true);
  reader.RequireValue("thresholding", "false");
  GRAFT_RETURN_IF_ERROR(reader.status());
  if (schedule.prediction == PredictionType::kEpsilon &&
      schedule.rescale_betas_zero_snr) {
    return reader.Unsupported(
        "rescale_betas_zero_snr",
        "with epsilon prediction divides by zero at the first step");
  }
  return std::make_unique<const DdimFactory>(std::move(config));
}

}  // namespace graft
