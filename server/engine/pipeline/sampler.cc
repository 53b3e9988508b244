#include "server/engine/pipeline/sampler.h"

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {

absl::Status CheckSteps(int steps, int64_t num_train_timesteps) {
  if (steps >= 1 && steps <= num_train_timesteps) return absl::OkStatus();
  return InvalidField(
      "steps",
      absl::StrCat(steps, " is not between 1 and ", num_train_timesteps,
                   ", the most steps that this sampler can divide the model's "
                   "schedule into"));
}

Samplers MakeSamplers(const std::string& path) {
  Samplers samplers;
  samplers.emplace("ddim", MakeDdim(path));
  samplers.emplace("euler", MakeEuler(path, /*ancestral=*/false));
  samplers.emplace("euler_a", MakeEuler(path, /*ancestral=*/true));
  samplers.emplace("dpmpp_2m", MakeDpmpp2m(path));
  return samplers;
}

std::string DefaultSampler(absl::string_view scheduler_class) {
  if (scheduler_class == "EulerDiscreteScheduler") return "euler";
  if (scheduler_class == "EulerAncestralDiscreteScheduler") return "euler_a";
  if (scheduler_class == "DPMSolverMultistepScheduler") return "dpmpp_2m";
  return "ddim";
}

}  // namespace graft
