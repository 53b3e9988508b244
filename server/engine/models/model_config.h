#ifndef GRAFT_SERVER_ENGINE_MODELS_MODEL_CONFIG_H_
#define GRAFT_SERVER_ENGINE_MODELS_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

// What the config.json files of a diffusers folder say, with diffusers' own
// defaults where a key is absent. Whatever would change the picture and is not
// supported is an error that names file and key.
namespace graft {

// unet/config.json, class UNet2DConditionModel.
struct UnetConfig {
  int64_t in_channels = 4;
  int64_t out_channels = 4;
  int64_t sample_size = 64;  // latent pixels per side of the training images
  std::vector<int64_t> block_out_channels;
  std::vector<int64_t> layers_per_block;     // per down block
  std::vector<bool> down_has_attention;      // per down block
  std::vector<bool> up_has_attention;        // per up block
  std::vector<int64_t> transformer_layers;   // per down block
  std::vector<int64_t> num_attention_heads;  // per down block
  int64_t cross_attention_dim = 768;
  int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  bool use_linear_projection = false;
  bool upcast_attention = false;
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  int64_t downsample_padding = 1;
  bool center_input_sample = false;
};

// vae/config.json, class AutoencoderKL; the decoder's part.
struct VaeConfig {
  int64_t out_channels = 3;
  int64_t latent_channels = 4;
  std::vector<int64_t> block_out_channels;
  int64_t layers_per_block = 1;
  int64_t norm_num_groups = 32;
  double scaling_factor = 0.18215;
  bool mid_block_add_attention = true;
  bool use_post_quant_conv = true;
  // Set in the file and true: decode in float32 even where the rest is float16.
  bool force_upcast = false;

  // Pixels per latent pixel and side.
  int64_t scale() const {
    return int64_t{1} << (block_out_channels.size() - 1);
  }
};

// text_encoder/config.json, class CLIPTextModel.
struct TextEncoderConfig {
  int64_t vocab_size = 49408;
  int64_t hidden_size = 512;
  int64_t intermediate_size = 2048;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 8;
  int64_t max_position_embeddings = 77;
  double layer_norm_eps = 1e-5;
  std::string hidden_act = "quick_gelu";  // or "gelu"
};

absl::StatusOr<UnetConfig> ReadUnetConfig(const std::string& path);
absl::StatusOr<VaeConfig> ReadVaeConfig(const std::string& path);
absl::StatusOr<TextEncoderConfig> ReadTextEncoderConfig(
    const std::string& path);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_MODEL_CONFIG_H_
