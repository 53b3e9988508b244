#include "server/engine/pipeline/noise_schedule.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/common/status_macros.h"
#include "server/engine/models/config_reader.h"

namespace graft {
namespace {

// The cosine schedule of arXiv:2102.09672 as the reference caps it.
at::Tensor CosineBetas(int64_t n) {
  const auto alpha_bar = [](double t) {
    const double c = std::cos((t + 0.008) / 1.008 * M_PI / 2);
    return c * c;
  };
  std::vector<float> betas;
  for (int64_t i = 0; i < n; ++i) {
    const double t1 = static_cast<double>(i) / static_cast<double>(n);
    const double t2 = static_cast<double>(i + 1) / static_cast<double>(n);
    betas.push_back(
        static_cast<float>(std::min(1 - alpha_bar(t2) / alpha_bar(t1), 0.999)));
  }
  return at::tensor(betas);
}

at::Tensor Betas(const NoiseScheduleConfig& config) {
  if (!config.trained_betas.empty()) {
    return at::tensor(at::ArrayRef<double>(config.trained_betas))
        .to(at::kFloat);
  }
  const int64_t n = config.num_train_timesteps;
  if (config.beta_schedule == "scaled_linear") {
    return at::linspace(std::sqrt(config.beta_start),
                        std::sqrt(config.beta_end), n, at::kFloat)
        .pow(2);
  }
  if (config.beta_schedule == "squaredcos_cap_v2") return CosineBetas(n);
  return at::linspace(config.beta_start, config.beta_end, n, at::kFloat);
}

// arXiv:2305.08891, Algorithm 1: shift and scale sqrt(alpha_bar) so that the
// last step carries no signal.
at::Tensor RescaleToZeroTerminalSnr(const at::Tensor& betas) {
  at::Tensor root = at::cumprod(1.0 - betas, 0).sqrt();
  const at::Tensor first = root[0].clone();
  const at::Tensor last = root[-1].clone();
  root -= last;
  root *= first / (first - last);
  const at::Tensor bar = root.pow(2);
  const at::Tensor alphas =
      at::cat({bar.slice(0, 0, 1), bar.slice(0, 1) / bar.slice(0, 0, -1)});
  return 1 - alphas;
}

std::vector<float> ToVector(const at::Tensor& tensor) {
  const at::Tensor t = tensor.contiguous();
  return std::vector<float>(t.data_ptr<float>(),
                            t.data_ptr<float>() + t.numel());
}

}  // namespace

absl::StatusOr<NoiseScheduleConfig> ReadNoiseScheduleConfig(
    ConfigReader& reader, TimestepSpacing default_spacing) {
  NoiseScheduleConfig c;
  c.spacing = default_spacing;
  c.trained_betas = reader.Doubles("trained_betas");
  c.num_train_timesteps = reader.Int("num_train_timesteps", 1000);
  c.beta_start = reader.Double("beta_start", 0.0001);
  c.beta_end = reader.Double("beta_end", 0.02);
  c.beta_schedule = reader.String("beta_schedule", "linear");
  c.steps_offset = reader.Int("steps_offset", 0);
  c.rescale_betas_zero_snr = reader.Bool("rescale_betas_zero_snr", false);
  const std::string prediction = reader.String("prediction_type", "epsilon");
  const std::string spacing = reader.String("timestep_spacing", "");
  GRAFT_RETURN_IF_ERROR(reader.status());

  if (prediction == "v_prediction") {
    c.prediction = PredictionType::kVPrediction;
  } else if (prediction != "epsilon") {
    return reader.Unsupported("prediction_type",
                              absl::StrCat("is \"", prediction,
                                           "\"; supported are epsilon and "
                                           "v_prediction"));
  }
  if (spacing == "linspace") {
    c.spacing = TimestepSpacing::kLinspace;
  } else if (spacing == "leading") {
    c.spacing = TimestepSpacing::kLeading;
  } else if (spacing == "trailing") {
    c.spacing = TimestepSpacing::kTrailing;
  } else if (!spacing.empty()) {
    return reader.Unsupported(
        "timestep_spacing", absl::StrCat("is \"", spacing,
                                         "\"; supported are linspace, leading "
                                         "and trailing"));
  }
  if (c.beta_schedule != "linear" && c.beta_schedule != "scaled_linear" &&
      c.beta_schedule != "squaredcos_cap_v2") {
    return reader.Unsupported(
        "beta_schedule", absl::StrCat("is \"", c.beta_schedule,
                                      "\"; supported are linear, scaled_linear "
                                      "and squaredcos_cap_v2"));
  }
  if (!c.trained_betas.empty() &&
      static_cast<int64_t>(c.trained_betas.size()) != c.num_train_timesteps) {
    return reader.Unsupported(
        "trained_betas", absl::StrCat("has ", c.trained_betas.size(),
                                      " entries, but num_train_timesteps is ",
                                      c.num_train_timesteps));
  }
  if (c.num_train_timesteps < 2 || c.num_train_timesteps > 1000000 ||
      c.steps_offset < 0) {
    return reader.Unsupported("num_train_timesteps",
                              "or steps_offset is out of range");
  }
  return c;
}

NoiseSchedule::NoiseSchedule(const NoiseScheduleConfig& config)
    : config_(config) {
  at::Tensor betas = Betas(config);
  if (config.rescale_betas_zero_snr) betas = RescaleToZeroTerminalSnr(betas);
  at::Tensor bar = at::cumprod(1.0 - betas, 0);
  alphas_cumprod_ = ToVector(bar);
  if (config.rescale_betas_zero_snr) bar[-1] = std::ldexp(1.0, -24);
  sigmas_ = ToVector(((1 - bar) / bar).sqrt());
}

double NoiseSchedule::InterpolateSigma(double t) const {
  if (t <= 0) return sigmas_.front();
  const double last = static_cast<double>(size() - 1);
  if (t >= last) return sigmas_.back();
  const auto low = static_cast<int64_t>(t);
  const double a = sigmas_[low], b = sigmas_[low + 1];
  return (b - a) * (t - static_cast<double>(low)) + a;
}

std::vector<double> TrailingTimesteps(double start, double step) {
  // numpy fills an arange from the difference of its first two values.
  const auto count = static_cast<int64_t>(std::ceil(start / step));
  const double delta = (start - step) - start;
  std::vector<double> timesteps;
  for (int64_t i = 0; i < count; ++i) {
    const double t = std::nearbyint(start + static_cast<double>(i) * delta) - 1;
    // What the division leaves over, see the header.
    if (t < 0) break;
    timesteps.push_back(t);
  }
  return timesteps;
}

std::vector<double> SpacedTimesteps(const NoiseScheduleConfig& config,
                                    int steps, bool rounded) {
  const auto n = static_cast<double>(config.num_train_timesteps);
  std::vector<double> timesteps;
  switch (config.spacing) {
    case TimestepSpacing::kLinspace:
      for (int i = 0; i < steps; ++i) {
        const double t = i + 1 == steps && steps > 1
                             ? n - 1
                             : i * ((n - 1) / std::max(steps - 1, 1));
        // The reference keeps fractional timesteps in float32.
        timesteps.push_back(rounded
                                ? std::nearbyint(t)
                                : static_cast<double>(static_cast<float>(t)));
      }
      std::reverse(timesteps.begin(), timesteps.end());
      return timesteps;
    case TimestepSpacing::kLeading: {
      const int64_t ratio = config.num_train_timesteps / steps;
      for (int i = steps - 1; i >= 0; --i) {
        timesteps.push_back(
            static_cast<double>(i * ratio + config.steps_offset));
      }
      return timesteps;
    }
    case TimestepSpacing::kTrailing:
      return TrailingTimesteps(n, n / steps);
  }
  return timesteps;
}

}  // namespace graft
