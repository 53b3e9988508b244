#ifndef GRAFT_SERVER_ENGINE_MODELS_VAE_DECODER_H_
#define GRAFT_SERVER_ENGINE_MODELS_VAE_DECODER_H_

#include <vector>

#include "server/engine/models/layers.h"
#include "server/engine/models/model_config.h"
#include "server/engine/models/resnet_block.h"

namespace graft {

// The decoder half of diffusers' AutoencoderKL (arXiv:2112.10752).
class VaeDecoder {
 public:
  // Parameters "vae.post_quant_conv" and "vae.decoder...."; check
  // builder.status() after it.
  VaeDecoder(const VaeConfig& config, LayerBuilder& builder);

  // Latents as the U-Net sees them [n, latent_channels, h, w] -> pixels
  // [n, 3, h * scale, w * scale] around [-1, 1]. Undoes the scaling.
  at::Tensor Forward(const at::Tensor& latents) const;

 private:
  struct AttentionBlock {
    GroupNorm group_norm;
    Linear to_q, to_k, to_v, to_out;
    at::Tensor Forward(const at::Tensor& x) const;
  };
  struct UpBlock {
    std::vector<ResnetBlock> resnets;
    Conv2d upsampler;  // undefined weight in the last block
  };

  VaeConfig config_;
  Conv2d post_quant_conv_;
  Conv2d conv_in_;
  ResnetBlock mid_resnet_0_, mid_resnet_1_;
  AttentionBlock mid_attention_;
  std::vector<UpBlock> up_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_VAE_DECODER_H_
