#ifndef GRAFT_SERVER_ENGINE_PIPELINE_LATENT_PREVIEW_H_
#define GRAFT_SERVER_ENGINE_PIPELINE_LATENT_PREVIEW_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/engine/models/vae_decoder.h"
#include "server/image/image.h"

namespace graft {

// Pictures of latents without the VAE: a pixel per latent pixel, as an affine
// function of its channels. What the function is depends on the VAE; so it is
// fitted to the one at hand, by least squares over a decoded sample, once at
// load. Immutable.
class LatentPreview {
 public:
  // Decodes a small sample with `vae`. `channels` and `scale` are the VAE's
  // latent channels and pixels per latent pixel and side.
  LatentPreview(const VaeDecoder& vae, int64_t channels, int64_t scale,
                at::Device device);

  // `latents` [1, channels, h, w], float32; the picture is w x h.
  Image Render(const at::Tensor& latents) const;

 private:
  at::Tensor map_;  // [channels + 1, 3] float32; the last row is the constant
};

// The picture of `pixels` [1, 3, h, w] around [-1, 1], on any device.
Image ToImage(const at::Tensor& pixels);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_PIPELINE_LATENT_PREVIEW_H_
