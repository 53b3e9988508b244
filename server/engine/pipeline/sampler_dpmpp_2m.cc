#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "server/common/status_macros.h"
#include "server/engine/models/config_reader.h"
#include "server/engine/pipeline/noise_schedule.h"
#include "server/engine/pipeline/sampler.h"

namespace graft {
namespace {

struct DpmConfig {
  NoiseSchedule schedule;
  int solver_order = 2;
  bool lower_order_final = true;
  bool euler_at_final = false;
  bool final_sigma_min = false;
  // Timesteps whose log(alpha/sigma) is below this are left out.
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
};

// Below this many steps the reference lowers the order at the end.
constexpr int kFewSteps = 15;

// The number of timesteps that are not clipped by lambda_min_clipped.
int64_t LastTimestep(const DpmConfig& config) {
  const int64_t n = config.schedule.size();
  int64_t clipped = 0;
  for (int64_t t = n - 1; t >= 0; --t, ++clipped) {
    // lambda = log(alpha_t) - log(sigma_t) = -log(sigma).
    if (-std::log(config.schedule.sigma(t)) >= config.lambda_min_clipped) break;
  }
  return n - clipped;
}

// The reference spaces steps + 1 timesteps and leaves the last one out.
std::vector<double> DpmTimesteps(const DpmConfig& config, int steps) {
  const int64_t last = LastTimestep(config);
  NoiseScheduleConfig spaced = config.schedule.config();
  if (spaced.spacing == TimestepSpacing::kTrailing) {
    return TrailingTimesteps(
        static_cast<double>(last),
        static_cast<double>(spaced.num_train_timesteps) / steps);
  }
  spaced.num_train_timesteps = last;
  std::vector<double> timesteps =
      SpacedTimesteps(spaced, steps + 1, /*rounded=*/true);
  timesteps.pop_back();
  return timesteps;
}

// DPM-Solver++ (arXiv:2211.01095), multistep, second order, midpoint.
class DpmSampler : public Sampler {
 public:
  DpmSampler(std::shared_ptr<const DpmConfig> config, int steps)
      : Sampler(DpmTimesteps(*config, steps)), config_(std::move(config)) {
    for (const double t : timesteps_) {
      sigmas_.push_back(
          static_cast<float>(config_->schedule.InterpolateSigma(t)));
    }
    sigmas_.push_back(config_->final_sigma_min ? config_->schedule.sigma(0)
                                               : 0.0F);
  }

 protected:
  at::Tensor Advance(const at::Tensor& model_output, const at::Tensor& latents,
                     at::Generator&) override {
    const Level here = LevelAt(step_);
    const Level next = LevelAt(step_ + 1);
    const at::Tensor previous = original_;
    original_ =
        config_->schedule.config().prediction == PredictionType::kEpsilon
            ? (latents - here.sigma * model_output) / here.alpha
            : here.alpha * latents - here.sigma * model_output;
    const float h = next.lambda - here.lambda;
    const float factor = next.alpha * (std::exp(-h) - 1.0F);
    at::Tensor result =
        (next.sigma / here.sigma) * latents - factor * original_;
    if (previous.defined() && !FirstOrderNow()) {
      const float r = (here.lambda - LevelAt(step_ - 1).lambda) / h;
      result = result - 0.5F * factor * ((1.0F / r) * (original_ - previous));
    }
    return result;
  }

 private:
  struct Level {
    float alpha, sigma, lambda;
  };

  Level LevelAt(int i) const {
    const float s = sigmas_[i];
    const float alpha = 1.0F / std::sqrt(s * s + 1);
    const float sigma = s * alpha;
    return {alpha, sigma, std::log(alpha) - std::log(sigma)};
  }

  bool FirstOrderNow() const {
    const bool last = step_ == num_steps() - 1;
    return config_->solver_order == 1 ||
           (last && (config_->euler_at_final || !config_->final_sigma_min ||
                     (config_->lower_order_final && num_steps() < kFewSteps)));
  }

  const std::shared_ptr<const DpmConfig> config_;
  std::vector<float> sigmas_;  // one more than steps
};

class DpmFactory : public SamplerFactory {
 public:
  explicit DpmFactory(DpmConfig config)
      : config_(std::make_shared<const DpmConfig>(std::move(config))) {}

  absl::StatusOr<std::unique_ptr<Sampler>> Create(int steps) const override {
    // The second order would divide by the distance of equal timesteps; where
    // not trailing there are steps + 1 of them.
    const bool one_more =
        config_->solver_order > 1 &&
        config_->schedule.config().spacing != TimestepSpacing::kTrailing;
    GRAFT_RETURN_IF_ERROR(
        CheckSteps(steps, LastTimestep(*config_) - (one_more ? 1 : 0)));
    return std::make_unique<DpmSampler>(config_, steps);
  }

 private:
  const std::shared_ptr<const DpmConfig> config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const SamplerFactory>> MakeDpmpp2m(
    const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Open(path));
  GRAFT_ASSIGN_OR_RETURN(
      const NoiseScheduleConfig schedule,
      ReadNoiseScheduleConfig(reader, TimestepSpacing::kLinspace));
  DpmConfig config{NoiseSchedule(schedule)};
  config.solver_order = static_cast<int>(reader.Int("solver_order", 2));
  config.lower_order_final = reader.Bool("lower_order_final", true);
  config.euler_at_final = reader.Bool("euler_at_final", false);
  config.lambda_min_clipped =
      reader.Double("lambda_min_clipped", config.lambda_min_clipped);
  const std::string final_sigmas = reader.String("final_sigmas_type", "zero");
  const std::string algorithm = reader.String("algorithm_type", "dpmsolver++");
  const std::string solver = reader.String("solver_type", "midpoint");
  for (const char* key :
       {"thresholding", "use_karras_sigmas", "use_exponential_sigmas",
        "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas",
        "use_dynamic_shifting"}) {
    reader.RequireValue(key, "false");
  }
  reader.RequireValue("variance_type", "null");
  GRAFT_RETURN_IF_ERROR(reader.status());
  config.final_sigma_min = final_sigmas == "sigma_min";
  if (final_sigmas != "zero" && final_sigmas != "sigma_min") {
    return reader.Unsupported("final_sigmas_type",
                              "is neither \"zero\" nor \"sigma_min\"");
  }
  if (config.solver_order != 1 && config.solver_order != 2) {
    return reader.Unsupported("solver_order", "is neither 1 nor 2");
  }
  // "deis", and solvers of other classes, mean these to the reference.
  if (algorithm != "dpmsolver++" && algorithm != "deis") {
    return reader.Unsupported("algorithm_type", "is not \"dpmsolver++\"");
  }
  if (solver == "heun") {
    return reader.Unsupported("solver_type", "is \"heun\", not \"midpoint\"");
  }
  return std::make_unique<const DpmFactory>(std::move(config));
}

}  // namespace graft
