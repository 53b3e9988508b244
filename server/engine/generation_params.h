#ifndef GRAFT_SERVER_ENGINE_GENERATION_PARAMS_H_
#define GRAFT_SERVER_ENGINE_GENERATION_PARAMS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft {

// The recipe of one image. Values outside the engine's limits are the caller's
// to refuse; what the model itself cannot do comes back as INVALID_FIELD.
struct GenerationParams {
  std::string prompt;           // UTF-8
  std::string negative_prompt;  // used when guidance_scale > 1
  int width = 512;              // pixels, a multiple of 8
  int height = 512;
  int steps = 25;
  // Classifier-free guidance (arXiv:2207.12598): above 1 each step runs the
  // U-Net on the negative and the positive prompt in one batch; up to 1 on the
  // positive one alone, as diffusers does.
  double guidance_scale = 7.5;
  std::string sampler = "ddim";  // one of SamplerNames()
  uint64_t seed = 0;             // of the initial noise: torch CPU generator
};

// "ddim", "euler", "euler_a", "dpmpp_2m".
const std::vector<std::string>& SamplerNames();

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_GENERATION_PARAMS_H_
