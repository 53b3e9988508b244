#ifndef GRAFT_SERVER_ENGINE_PIPELINE_NOISE_SCHEDULE_H_
#define GRAFT_SERVER_ENGINE_PIPELINE_NOISE_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace graft {

class ConfigReader;

enum class PredictionType { kEpsilon, kVPrediction };
enum class TimestepSpacing { kLinspace, kLeading, kTrailing };

// What every sampler reads from scheduler_config.json. The defaults are the
// reference classes' common ones; spacing's differs by class.
struct NoiseScheduleConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  std::string beta_schedule =
      "linear";                       // or "scaled_linear", "squaredcos_cap_v2"
  std::vector<double> trained_betas;  // replaces the three above
  PredictionType prediction = PredictionType::kEpsilon;
  TimestepSpacing spacing = TimestepSpacing::kLeading;
  int64_t steps_offset = 0;
  bool rescale_betas_zero_snr = false;  // arXiv:2305.08891, Algorithm 1
};

// Reads the fields above. Errors stay in the reader.
absl::StatusOr<NoiseScheduleConfig> ReadNoiseScheduleConfig(
    ConfigReader& reader, TimestepSpacing default_spacing);

// The training schedule: cumulative products of 1 - beta, in float32 and in the
// reference's order of operations, so that they are equal bit for bit.
class NoiseSchedule {
 public:
  explicit NoiseSchedule(const NoiseScheduleConfig& config);

  const NoiseScheduleConfig& config() const { return config_; }
  int64_t size() const { return static_cast<int64_t>(alphas_cumprod_.size()); }
  float alpha_cumprod(int64_t t) const { return alphas_cumprod_[t]; }

  // For sampling by sigma: as alpha_cumprod, but the last one is 2^-24 instead
  // of 0 where the betas were rescaled, so that its sigma is finite.
  float sigma(int64_t t) const { return sigmas_[t]; }

  // sigma at a fractional timestep, linear between neighbours and constant
  // beyond the ends (numpy.interp).
  double InterpolateSigma(double t) const;

 private:
  NoiseScheduleConfig config_;
  std::vector<float> alphas_cumprod_;
  std::vector<float> sigmas_;
};

// The timesteps of a run of `steps`, from noisy to clean, by numpy's rules.
// Table 2 of arXiv:2305.08891. `linspace` may be fractional unless `rounded`.
std::vector<double> SpacedTimesteps(const NoiseScheduleConfig& config,
                                    int steps, bool rounded);

// numpy.arange(start, 0, -step), rounded half to even, minus one: "trailing".
// Where the division leaves a last value that rounds to 0 (61 steps of 1000
// have one of 2e-13), numpy, and diffusers with it, makes a step more, at
// timestep -1, which no schedule has. It is left out here: all timesteps are at
// least 0.
std::vector<double> TrailingTimesteps(double start, double step);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_PIPELINE_NOISE_SCHEDULE_H_
