#include "server/engine/models/model_config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/engine/models/config_reader.h"

namespace graft {
namespace {

// More than any model has, and so few that a network of as many, none of whose
// tensors is there, is refused at once.
constexpr int64_t kMaxLevels = 16;
constexpr int64_t kMaxLayers = 256;
constexpr int64_t kMaxSampleSize = 4096;  // latent pixels

absl::Status CheckBetween(const ConfigReader& reader, absl::string_view key,
                          int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return reader.Unsupported(key, absl::StrCat("is ", value, ", and must be ",
                                              "from ", min, " to ", max));
}

absl::Status CheckLevels(const ConfigReader& reader,
                         const std::vector<int64_t>& widths) {
  if (widths.size() <= kMaxLevels) return absl::OkStatus();
  return reader.Unsupported(
      "block_out_channels",
      absl::StrCat("has more than ", kMaxLevels, " entries"));
}

// Every width a whole number of norm groups and heads: what the layers assume.
absl::Status CheckDivisible(const ConfigReader& reader, absl::string_view key,
                            const std::vector<int64_t>& widths,
                            int64_t divisor) {
  for (const int64_t width : widths) {
    if (divisor <= 0 || width <= 0 || width % divisor != 0) {
      return reader.Unsupported(
          key, absl::StrCat("= ", divisor, " does not divide the width ", width,
                            " of block_out_channels"));
    }
  }
  return absl::OkStatus();
}

// "CrossAttn..." or plain, one flag per block.
std::vector<bool> AttentionFlags(ConfigReader& reader, absl::string_view key,
                                 const std::vector<std::string>& fallback,
                                 absl::string_view with,
                                 absl::string_view without,
                                 absl::Status& status) {
  std::vector<bool> flags;
  for (const std::string& type : reader.Strings(key, fallback)) {
    if (type != with && type != without && status.ok()) {
      status = reader.Unsupported(
          key, absl::StrCat("has the block type \"", type, "\"; supported are ",
                            with, " and ", without));
    }
    flags.push_back(type == with);
  }
  return flags;
}

// The keys of UNet2DConditionModel that must have their default.
void RequireUnetDefaults(ConfigReader& reader) {
  reader.RequireValue("act_fn", "\"silu\"");
  reader.RequireValue("attention_type", "\"default\"");
  reader.RequireValue("conv_in_kernel", "3");
  reader.RequireValue("conv_out_kernel", "3");
  reader.RequireValue("mid_block_scale_factor", "1");
  reader.RequireValue("mid_block_type", "\"UNetMidBlock2DCrossAttn\"");
  reader.RequireValue("resnet_out_scale_factor", "1");
  reader.RequireValue("resnet_time_scale_shift", "\"default\"");
  reader.RequireValue("time_embedding_type", "\"positional\"");
  reader.RequireValue("addition_embed_type", "null");
  // Inert without what they belong to, or at inference.
  reader.Ignore({"addition_embed_type_num_heads", "dropout", "sample_size"});
}

}  // namespace

absl::StatusOr<UnetConfig> ReadUnetConfig(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Open(path));
  absl::Status status;
  UnetConfig c;
  c.block_out_channels =
      reader.IntList("block_out_channels", {320, 640, 1280, 1280});
  const size_t blocks = c.block_out_channels.size();
  c.in_channels = reader.Int("in_channels", 4);
  c.out_channels = reader.Int("out_channels", 4);
  c.sample_size = reader.Int("sample_size", 64);
  c.layers_per_block = reader.Ints("layers_per_block", blocks, 2);
  c.down_has_attention =
      AttentionFlags(reader, "down_block_types",
                     {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                      "CrossAttnDownBlock2D", "DownBlock2D"},
                     "CrossAttnDownBlock2D", "DownBlock2D", status);
  c.up_has_attention =
      AttentionFlags(reader, "up_block_types",
                     {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                      "CrossAttnUpBlock2D"},
                     "CrossAttnUpBlock2D", "UpBlock2D", status);
  c.transformer_layers = reader.Ints("transformer_layers_per_block", blocks, 1);
  // Despite its name this is the number of heads; diffusers refuses models that
  // set the properly named key.
  c.num_attention_heads = reader.Ints("attention_head_dim", blocks, 8);
  reader.RequireValue("num_attention_heads", "null");
  c.cross_attention_dim = reader.Ints("cross_attention_dim", 1, 1280)[0];
  c.norm_num_groups = reader.Int("norm_num_groups", 32);
  c.norm_eps = reader.Double("norm_eps", 1e-5);
  c.use_linear_projection = reader.Bool("use_linear_projection", false);
  c.upcast_attention = reader.Bool("upcast_attention", false);
  c.flip_sin_to_cos = reader.Bool("flip_sin_to_cos", true);
  c.freq_shift = reader.Double("freq_shift", 0);
  c.downsample_padding = reader.Int("downsample_padding", 1);
  c.center_input_sample = reader.Bool("center_input_sample", false);
  RequireUnetDefaults(reader);
  if (reader.IsNull("mid_block_type") && status.ok()) {
    status = reader.Unsupported(
        "mid_block_type", "is null (no mid block), which is not supported");
  }
  GRAFT_RETURN_IF_ERROR(reader.Finish());
  GRAFT_RETURN_IF_ERROR(status);
  if (c.down_has_attention.size() != blocks ||
      c.up_has_attention.size() != blocks) {
    return reader.Unsupported("block_out_channels",
                              "and the block types differ in number");
  }
  GRAFT_RETURN_IF_ERROR(CheckLevels(reader, c.block_out_channels));
  GRAFT_RETURN_IF_ERROR(
      CheckBetween(reader, "sample_size", c.sample_size, 1, kMaxSampleSize));
  if (c.downsample_padding != 0 && c.downsample_padding != 1) {
    return reader.Unsupported("downsample_padding", "is neither 0 nor 1");
  }
  GRAFT_RETURN_IF_ERROR(CheckDivisible(
      reader, "norm_num_groups", c.block_out_channels, c.norm_num_groups));
  for (size_t i = 0; i < blocks; ++i) {
    GRAFT_RETURN_IF_ERROR(CheckDivisible(reader, "attention_head_dim",
                                         {c.block_out_channels[i]},
                                         c.num_attention_heads[i]));
    GRAFT_RETURN_IF_ERROR(CheckBetween(reader, "layers_per_block",
                                       c.layers_per_block[i], 1, kMaxLayers));
    GRAFT_RETURN_IF_ERROR(CheckBetween(reader, "transformer_layers_per_block",
                                       c.transformer_layers[i], 1, kMaxLayers));
  }
  return c;
}

absl::StatusOr<VaeConfig> ReadVaeConfig(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Open(path));
  VaeConfig c;
  c.out_channels = reader.Int("out_channels", 3);
  c.latent_channels = reader.Int("latent_channels", 4);
  c.block_out_channels = reader.IntList("block_out_channels", {64});
  c.layers_per_block = reader.Int("layers_per_block", 1);
  c.norm_num_groups = reader.Int("norm_num_groups", 32);
  c.scaling_factor = reader.Double("scaling_factor", 0.18215);
  // Null is false to diffusers, not the default.
  c.mid_block_add_attention = !reader.IsNull("mid_block_add_attention") &&
                              reader.Bool("mid_block_add_attention", true);
  c.use_post_quant_conv = reader.Bool("use_post_quant_conv", true);
  c.force_upcast = reader.Bool("force_upcast", false);
  reader.RequireValue("act_fn", "\"silu\"");
  reader.RequireValue("shift_factor", "0");
  // The encoder's, or of training.
  reader.Ignore(
      {"in_channels", "sample_size", "down_block_types", "use_quant_conv"});
  for (const std::string& type :
       reader.Strings("up_block_types", {"UpDecoderBlock2D"})) {
    if (type != "UpDecoderBlock2D") {
      return reader.Unsupported(
          "up_block_types", absl::StrCat("has the block type \"", type,
                                         "\"; supported is UpDecoderBlock2D"));
    }
  }
  GRAFT_RETURN_IF_ERROR(reader.Finish());
  GRAFT_RETURN_IF_ERROR(CheckDivisible(
      reader, "norm_num_groups", c.block_out_channels, c.norm_num_groups));
  if (c.out_channels != 3) {
    return reader.Unsupported("out_channels", "is not 3 (RGB)");
  }
  GRAFT_RETURN_IF_ERROR(CheckLevels(reader, c.block_out_channels));
  GRAFT_RETURN_IF_ERROR(CheckBetween(reader, "layers_per_block",
                                     c.layers_per_block, 1, kMaxLayers));
  if (!(c.scaling_factor > 0)) {
    return reader.Unsupported("scaling_factor", "is not positive");
  }
  return c;
}

absl::StatusOr<TextEncoderConfig> ReadTextEncoderConfig(
    const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Open(path));
  TextEncoderConfig c;
  c.vocab_size = reader.Int("vocab_size", 49408);
  c.hidden_size = reader.Int("hidden_size", 512);
  c.intermediate_size = reader.Int("intermediate_size", 2048);
  c.num_hidden_layers = reader.Int("num_hidden_layers", 12);
  c.num_attention_heads = reader.Int("num_attention_heads", 8);
  c.max_position_embeddings = reader.Int("max_position_embeddings", 77);
  c.layer_norm_eps = reader.Double("layer_norm_eps", 1e-5);
  c.hidden_act = reader.String("hidden_act", "quick_gelu");
  reader.RequireValue("use_attention_mask", "false");
  GRAFT_RETURN_IF_ERROR(reader.status());
  // The other keys (token ids, initialisation, generation settings) change
  // nothing in a forward pass, and transformers adds more with every version.
  if (c.hidden_act != "quick_gelu" && c.hidden_act != "gelu") {
    return reader.Unsupported("hidden_act",
                              "is neither \"quick_gelu\" nor \"gelu\"");
  }
  if (c.num_attention_heads < 1 || c.hidden_size < 1 ||
      c.hidden_size % c.num_attention_heads != 0) {
    return reader.Unsupported("num_attention_heads",
                              "does not divide hidden_size");
  }
  GRAFT_RETURN_IF_ERROR(CheckBetween(reader, "num_hidden_layers",
                                     c.num_hidden_layers, 1, kMaxLayers));
  if (c.max_position_embeddings < 3 || c.vocab_size < 3) {
    return reader.Unsupported("vocab_size",
                              "or max_position_embeddings is too small");
  }
  return c;
}

}  // namespace graft
