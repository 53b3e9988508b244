#include "server/engine/models/unet_2d_condition.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft {
namespace {

// Of BasicTransformerBlock and Transformer2DModel: fixed in diffusers.
constexpr double kLayerNormEps = 1e-5;
constexpr double kTransformerNormEps = 1e-6;
// The time embedding is this many times as wide as the first block.
constexpr int64_t kTimeWidthFactor = 4;

// The width of the skip connection that resnet `j` of up block `level` (counted
// as a down level) takes: the matching down level's, or for the last one the
// width that entered that level.
int64_t SkipWidth(const std::vector<int64_t>& widths, int64_t level,
                  bool last) {
  if (!last) return widths[level];
  return widths[level > 0 ? level - 1 : 0];
}

}  // namespace

at::Tensor Unet2dCondition::CrossAttention::Forward(
    const at::Tensor& x, const at::Tensor& context) const {
  return to_out.Forward(Attention(to_q.Forward(x), to_k.Forward(context),
                                  to_v.Forward(context), heads,
                                  /*causal=*/false, upcast));
}

at::Tensor Unet2dCondition::TransformerBlock::Forward(
    const at::Tensor& x, const at::Tensor& text) const {
  at::Tensor h = norm1.Forward(x);
  at::Tensor y = x + attn1.Forward(h, h);
  y = y + attn2.Forward(norm2.Forward(y), text);
  // GEGLU (arXiv:2002.05202).
  const auto halves = ff_in.Forward(norm3.Forward(y)).chunk(2, -1);
  return y + ff_out.Forward(halves[0] * at::gelu(halves[1]));
}

at::Tensor Unet2dCondition::Transformer::Forward(const at::Tensor& x,
                                                 const at::Tensor& text) const {
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  at::Tensor y = norm.Forward(x);
  if (!linear_projection) y = proj_in_conv.Forward(y);
  y = y.permute({0, 2, 3, 1}).reshape({n, h * w, c});
  if (linear_projection) y = proj_in_linear.Forward(y);
  for (const TransformerBlock& block : blocks) y = block.Forward(y, text);
  if (linear_projection) y = proj_out_linear.Forward(y);
  y = y.reshape({n, h, w, c}).permute({0, 3, 1, 2}).contiguous();
  if (!linear_projection) y = proj_out_conv.Forward(y);
  return y + x;
}

Unet2dCondition::Transformer Unet2dCondition::MakeTransformer(
    const std::string& name, int64_t channels, int64_t level,
    LayerBuilder& builder) const {
  Transformer t;
  t.norm = builder.MakeGroupNorm(name + ".norm", channels,
                                 config_.norm_num_groups, kTransformerNormEps);
  t.linear_projection = config_.use_linear_projection;
  if (t.linear_projection) {
    t.proj_in_linear =
        builder.MakeLinear(name + ".proj_in", channels, channels);
    t.proj_out_linear =
        builder.MakeLinear(name + ".proj_out", channels, channels);
  } else {
    t.proj_in_conv =
        builder.MakeConv2d(name + ".proj_in", channels, channels, 1);
    t.proj_out_conv =
        builder.MakeConv2d(name + ".proj_out", channels, channels, 1);
  }
  const auto attention = [&](const std::string& prefix, int64_t context) {
    CrossAttention a;
    a.to_q = builder.MakeLinear(prefix + ".to_q", channels, channels, false);
    a.to_k = builder.MakeLinear(prefix + ".to_k", context, channels, false);
    a.to_v = builder.MakeLinear(prefix + ".to_v", context, channels, false);
    a.to_out = builder.MakeLinear(prefix + ".to_out.0", channels, channels);
    a.heads = config_.num_attention_heads[level];
    a.upcast = config_.upcast_attention;
    return a;
  };
  for (int64_t k = 0; k < config_.transformer_layers[level]; ++k) {
    const std::string block = absl::StrCat(name, ".transformer_blocks.", k);
    TransformerBlock b;
    b.norm1 = builder.MakeLayerNorm(block + ".norm1", channels, kLayerNormEps);
    b.attn1 = attention(block + ".attn1", channels);
    b.norm2 = builder.MakeLayerNorm(block + ".norm2", channels, kLayerNormEps);
    b.attn2 = attention(block + ".attn2", config_.cross_attention_dim);
    b.norm3 = builder.MakeLayerNorm(block + ".norm3", channels, kLayerNormEps);
    b.ff_in =
        builder.MakeLinear(block + ".ff.net.0.proj", channels, 8 * channels);
    b.ff_out = builder.MakeLinear(block + ".ff.net.2", 4 * channels, channels);
    t.blocks.push_back(std::move(b));
  }
  return t;
}

Unet2dCondition::Block Unet2dCondition::MakeDownBlock(
    int64_t level, LayerBuilder& builder) const {
  const auto& widths = config_.block_out_channels;
  const std::string name = absl::StrCat("unet.down_blocks.", level);
  const int64_t out = widths[level];
  Block block;
  for (int64_t j = 0; j < config_.layers_per_block[level]; ++j) {
    const int64_t in = j == 0 ? widths[level > 0 ? level - 1 : 0] : out;
    block.resnets.push_back(
        MakeResnetBlock(absl::StrCat(name, ".resnets.", j),
                        {in, out, widths[0] * kTimeWidthFactor,
                         config_.norm_num_groups, config_.norm_eps},
                        builder));
    if (config_.down_has_attention[level]) {
      block.attentions.push_back(MakeTransformer(
          absl::StrCat(name, ".attentions.", j), out, level, builder));
    }
  }
  block.resamples = level + 1 < static_cast<int64_t>(widths.size());
  if (block.resamples) {
    block.resampler = builder.MakeConv2d(name + ".downsamplers.0.conv", out,
                                         out, 3, 2, config_.downsample_padding);
  }
  return block;
}

Unet2dCondition::Block Unet2dCondition::MakeUpBlock(
    int64_t index, LayerBuilder& builder) const {
  const auto& widths = config_.block_out_channels;
  const int64_t levels = static_cast<int64_t>(widths.size());
  const int64_t level = levels - 1 - index;
  const std::string name = absl::StrCat("unet.up_blocks.", index);
  const int64_t out = widths[level];
  const int64_t previous = widths[std::min(level + 1, levels - 1)];
  const int64_t layers = config_.layers_per_block[level] + 1;
  Block block;
  for (int64_t j = 0; j < layers; ++j) {
    const int64_t in =
        (j == 0 ? previous : out) + SkipWidth(widths, level, j == layers - 1);
    block.resnets.push_back(
        MakeResnetBlock(absl::StrCat(name, ".resnets.", j),
                        {in, out, widths[0] * kTimeWidthFactor,
                         config_.norm_num_groups, config_.norm_eps},
                        builder));
    if (config_.up_has_attention[index]) {
      block.attentions.push_back(MakeTransformer(
          absl::StrCat(name, ".attentions.", j), out, level, builder));
    }
  }
  block.resamples = index + 1 < levels;
  if (block.resamples) {
    block.resampler =
        builder.MakeConv2d(name + ".upsamplers.0.conv", out, out, 3, 1, 1);
  }
  return block;
}

Unet2dCondition::Unet2dCondition(const UnetConfig& config,
                                 LayerBuilder& builder)
    : config_(config) {
  const auto& widths = config.block_out_channels;
  const int64_t levels = static_cast<int64_t>(widths.size());
  const int64_t time_width = widths[0] * kTimeWidthFactor;
  conv_in_ = builder.MakeConv2d("unet.conv_in", config.in_channels, widths[0],
                                3, 1, 1);
  time_linear_1_ =
      builder.MakeLinear("unet.time_embedding.linear_1", widths[0], time_width);
  time_linear_2_ = builder.MakeLinear("unet.time_embedding.linear_2",
                                      time_width, time_width);
  for (int64_t i = 0; i < levels; ++i) {
    down_.push_back(MakeDownBlock(i, builder));
  }
  const int64_t last = levels - 1;
  for (int64_t j = 0; j < 2; ++j) {
    mid_.resnets.push_back(
        MakeResnetBlock(absl::StrCat("unet.mid_block.resnets.", j),
                        {widths[last], widths[last], time_width,
                         config.norm_num_groups, config.norm_eps},
                        builder));
  }
  mid_.attentions.push_back(MakeTransformer("unet.mid_block.attentions.0",
                                            widths[last], last, builder));
  for (int64_t i = 0; i < levels; ++i) up_.push_back(MakeUpBlock(i, builder));
  conv_norm_out_ = builder.MakeGroupNorm(
      "unet.conv_norm_out", widths[0], config.norm_num_groups, config.norm_eps);
  conv_out_ = builder.MakeConv2d("unet.conv_out", widths[0],
                                 config.out_channels, 3, 1, 1);
  if (builder.status().ok()) dtype_ = conv_in_.weight.scalar_type();
}

// Sinusoidal embedding (arXiv:1706.03762) of each sample's timestep, then two
// linear layers.
at::Tensor Unet2dCondition::EmbedTimesteps(
    at::ArrayRef<double> timesteps) const {
  const int64_t half = config_.block_out_channels[0] / 2;
  const at::Tensor exponent =
      -std::log(10000.0) *
      at::arange(half, at::TensorOptions().dtype(at::kFloat)) /
      (static_cast<double>(half) - config_.freq_shift);
  const at::Tensor angles = at::tensor(timesteps, at::kFloat).unsqueeze(1) *
                            at::exp(exponent).unsqueeze(0);
  const at::Tensor sin = at::sin(angles), cos = at::cos(angles);
  at::Tensor embedding = config_.flip_sin_to_cos ? at::cat({cos, sin}, -1)
                                                 : at::cat({sin, cos}, -1);
  if (config_.block_out_channels[0] % 2 == 1) {
    embedding = at::pad(embedding, {0, 1});
  }
  embedding = embedding.to(conv_in_.weight.device(), dtype_);
  return time_linear_2_.Forward(at::silu(time_linear_1_.Forward(embedding)));
}

at::Tensor Unet2dCondition::Downsample(const Conv2d& conv,
                                       const at::Tensor& x) const {
  // Without padding of its own the convolution gets one row and column at the
  // lower right, as in the VAE's encoder.
  return conv.Forward(config_.downsample_padding == 0 ? at::pad(x, {0, 1, 0, 1})
                                                      : x);
}

at::Tensor Unet2dCondition::Forward(const at::Tensor& sample,
                                    at::ArrayRef<double> timesteps,
                                    const at::Tensor& text) const {
  const at::Tensor temb = EmbedTimesteps(timesteps);
  at::Tensor x = sample.to(dtype_);
  if (config_.center_input_sample) x = 2 * x - 1;
  x = conv_in_.Forward(x);

  std::vector<at::Tensor> skips = {x};
  const auto run = [&](const Block& block, size_t j) {
    x = block.resnets[j].Forward(x, temb);
    if (!block.attentions.empty()) x = block.attentions[j].Forward(x, text);
  };
  for (const Block& block : down_) {
    for (size_t j = 0; j < block.resnets.size(); ++j) {
      run(block, j);
      skips.push_back(x);
    }
    if (block.resamples) {
      x = Downsample(block.resampler, x);
      skips.push_back(x);
    }
  }

  x = mid_.resnets[0].Forward(x, temb);
  x = mid_.attentions[0].Forward(x, text);
  x = mid_.resnets[1].Forward(x, temb);

  for (const Block& block : up_) {
    for (size_t j = 0; j < block.resnets.size(); ++j) {
      x = at::cat({x, skips.back()}, 1);
      skips.pop_back();
      run(block, j);
    }
    if (block.resamples) {
      // To the size of the next skip connection: twice as large, but for odd
      // sizes on the way down.
      x = block.resampler.Forward(
          at::upsample_nearest2d(x, skips.back().sizes().slice(2)));
    }
  }
  return conv_out_.Forward(at::silu(conv_norm_out_.Forward(x)));
}

}  // namespace graft
