#ifndef GRAFT_SERVER_ENGINE_MODELS_RESNET_BLOCK_H_
#define GRAFT_SERVER_ENGINE_MODELS_RESNET_BLOCK_H_

#include <string>

#include "server/engine/models/layers.h"

namespace graft {

// norm, SiLU, convolution, twice, beside a shortcut: diffusers' ResnetBlock2D.
struct ResnetBlock {
  GroupNorm norm1;
  Conv2d conv1;
  Linear time_emb_proj;  // undefined weight in the VAE
  GroupNorm norm2;
  Conv2d conv2;
  Conv2d conv_shortcut;  // undefined weight where the width stays

  // x [n, in, h, w], temb [n, time width] or undefined -> [n, out, h, w]
  at::Tensor Forward(const at::Tensor& x, const at::Tensor& temb) const;
};

struct ResnetShape {
  int64_t in = 0;
  int64_t out = 0;
  int64_t time_width = 0;  // 0: no timestep embedding
  int64_t groups = 32;
  double eps = 1e-5;
};

ResnetBlock MakeResnetBlock(const std::string& name, const ResnetShape& shape,
                            LayerBuilder& builder);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_RESNET_BLOCK_H_
