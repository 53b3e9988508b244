#ifndef GRAFT_SERVER_ENGINE_MODELS_UNET_2D_CONDITION_H_
#define GRAFT_SERVER_ENGINE_MODELS_UNET_2D_CONDITION_H_

#include <string>
#include <vector>

#include "server/engine/models/layers.h"
#include "server/engine/models/model_config.h"
#include "server/engine/models/resnet_block.h"

namespace graft {

// The denoiser of latent diffusion (arXiv:2112.10752): a U-Net whose attention
// modules look at the text, as diffusers' UNet2DConditionModel computes it.
class Unet2dCondition {
 public:
  // Parameters "unet...."; check builder.status() after it.
  Unet2dCondition(const UnetConfig& config, LayerBuilder& builder);

  // Latents [n, in_channels, h, w], a timestep for each, text [n, t,
  // cross_attention_dim] -> [n, out_channels, h, w] in the weights' dtype.
  at::Tensor Forward(const at::Tensor& sample, at::ArrayRef<double> timesteps,
                     const at::Tensor& text) const;

 private:
  struct CrossAttention {
    Linear to_q, to_k, to_v, to_out;
    int64_t heads = 1;
    bool upcast = false;
    at::Tensor Forward(const at::Tensor& x, const at::Tensor& context) const;
  };
  struct TransformerBlock {
    LayerNorm norm1, norm2, norm3;
    CrossAttention attn1, attn2;
    Linear ff_in, ff_out;
    at::Tensor Forward(const at::Tensor& x, const at::Tensor& text) const;
  };
  // "attentions.j": pixels to tokens, transformer blocks, and back.
  struct Transformer {
    GroupNorm norm;
    bool linear_projection = false;
    Linear proj_in_linear, proj_out_linear;
    Conv2d proj_in_conv, proj_out_conv;
    std::vector<TransformerBlock> blocks;
    at::Tensor Forward(const at::Tensor& x, const at::Tensor& text) const;
  };
  struct Block {
    std::vector<ResnetBlock> resnets;
    std::vector<Transformer> attentions;  // empty, or one per resnet
    bool resamples = false;
    Conv2d resampler;
  };

  Transformer MakeTransformer(const std::string& name, int64_t channels,
                              int64_t level, LayerBuilder& builder) const;
  Block MakeDownBlock(int64_t level, LayerBuilder& builder) const;
  Block MakeUpBlock(int64_t index, LayerBuilder& builder) const;
  at::Tensor EmbedTimesteps(at::ArrayRef<double> timesteps) const;
  at::Tensor Downsample(const Conv2d& conv, const at::Tensor& x) const;

  UnetConfig config_;
  at::ScalarType dtype_ = at::kFloat;
  Linear time_linear_1_, time_linear_2_;
  Conv2d conv_in_;
  std::vector<Block> down_;
  Block mid_;
  std::vector<Block> up_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_UNET_2D_CONDITION_H_
