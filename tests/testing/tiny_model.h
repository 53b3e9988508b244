#ifndef GRAFT_TESTS_TESTING_TINY_MODEL_H_
#define GRAFT_TESTS_TESTING_TINY_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

namespace graft {

// The shape of a Stable-Diffusion-architecture model small enough for unit
// tests.
struct TinyModelOptions {
  std::vector<int> unet_widths = {16, 32};
  int unet_layers = 1;
  int unet_heads = 2;
  bool use_linear_projection = false;
  int text_width = 24;
  int text_layers = 2;
  std::vector<int> vae_widths = {8, 16};
  int groups = 4;
  // The body of scheduler_config.json, without the braces.
  std::string scheduler =
      R"("_class_name": "DDIMScheduler", "beta_start": 0.00085,
         "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1)";
  uint64_t seed = 1;
};

// Writes a diffusers-format folder with random float32 weights: the same
// options give the same bytes. The tokenizer knows single bytes only.
void WriteTinyModel(const std::string& folder, const TinyModelOptions& options);

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_TINY_MODEL_H_
