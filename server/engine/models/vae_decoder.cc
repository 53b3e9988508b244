#include "server/engine/models/vae_decoder.h"

#include <ATen/ATen.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft {
namespace {

constexpr double kNormEps = 1e-6;  // fixed in diffusers' decoder

}  // namespace

at::Tensor VaeDecoder::AttentionBlock::Forward(const at::Tensor& x) const {
  const at::Tensor tokens =
      group_norm.Forward(x.flatten(2)).transpose(1, 2);  // [n, h*w, c]
  const at::Tensor y =
      to_out.Forward(Attention(to_q.Forward(tokens), to_k.Forward(tokens),
                               to_v.Forward(tokens), /*heads=*/1,
                               /*causal=*/false, /*upcast=*/false));
  return y.transpose(1, 2).reshape(x.sizes()) + x;
}

VaeDecoder::VaeDecoder(const VaeConfig& config, LayerBuilder& builder)
    : config_(config) {
  const std::string root = "vae.decoder.";
  const auto& widths = config.block_out_channels;
  const int64_t levels = static_cast<int64_t>(widths.size());
  const int64_t top = widths.back();
  const auto resnet = [&](const std::string& name, int64_t in, int64_t out) {
    return MakeResnetBlock(name, {in, out, 0, config.norm_num_groups, kNormEps},
                           builder);
  };

  if (config.use_post_quant_conv) {
    post_quant_conv_ =
        builder.MakeConv2d("vae.post_quant_conv", config.latent_channels,
                           config.latent_channels, 1);
  }
  conv_in_ = builder.MakeConv2d(root + "conv_in", config.latent_channels, top,
                                3, 1, 1);
  mid_resnet_0_ = resnet(root + "mid_block.resnets.0", top, top);
  if (config.mid_block_add_attention) {
    const std::string name = root + "mid_block.attentions.0";
    mid_attention_.group_norm = builder.MakeGroupNorm(
        name + ".group_norm", top, config.norm_num_groups, kNormEps);
    mid_attention_.to_q = builder.MakeLinear(name + ".to_q", top, top);
    mid_attention_.to_k = builder.MakeLinear(name + ".to_k", top, top);
    mid_attention_.to_v = builder.MakeLinear(name + ".to_v", top, top);
    mid_attention_.to_out = builder.MakeLinear(name + ".to_out.0", top, top);
  }
  mid_resnet_1_ = resnet(root + "mid_block.resnets.1", top, top);

  int64_t in = top;
  for (int64_t i = 0; i < levels; ++i) {
    const std::string name = absl::StrCat(root, "up_blocks.", i);
    const int64_t out = widths[levels - 1 - i];
    UpBlock block;
    for (int64_t j = 0; j < config.layers_per_block + 1; ++j) {
      block.resnets.push_back(
          resnet(absl::StrCat(name, ".resnets.", j), j == 0 ? in : out, out));
    }
    if (i + 1 < levels) {
      block.upsampler =
          builder.MakeConv2d(name + ".upsamplers.0.conv", out, out, 3, 1, 1);
    }
    up_.push_back(std::move(block));
    in = out;
  }
  conv_norm_out_ = builder.MakeGroupNorm(root + "conv_norm_out", in,
                                         config.norm_num_groups, kNormEps);
  conv_out_ =
      builder.MakeConv2d(root + "conv_out", in, config.out_channels, 3, 1, 1);
}

at::Tensor VaeDecoder::Forward(const at::Tensor& latents) const {
  at::Tensor x =
      (latents / config_.scaling_factor).to(conv_in_.weight.scalar_type());
  if (config_.use_post_quant_conv) x = post_quant_conv_.Forward(x);
  x = mid_resnet_0_.Forward(conv_in_.Forward(x), {});
  if (config_.mid_block_add_attention) x = mid_attention_.Forward(x);
  x = mid_resnet_1_.Forward(x, {});
  for (const UpBlock& block : up_) {
    for (const ResnetBlock& resnet : block.resnets) x = resnet.Forward(x, {});
    if (block.upsampler.weight.defined()) {
      x = block.upsampler.Forward(
          at::upsample_nearest2d(x, {{2 * x.size(2), 2 * x.size(3)}}));
    }
  }
  return conv_out_.Forward(at::silu(conv_norm_out_.Forward(x)));
}

}  // namespace graft
