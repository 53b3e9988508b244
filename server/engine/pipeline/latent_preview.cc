#include "server/engine/pipeline/latent_preview.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace graft {
namespace {

// The sample: random latents in flat patches, of which the inside counts, as
// the function is to say what a colour is and not what an edge is. Far from
// zero a decoder saturates, and what it does there would take the slope's
// place.
constexpr int64_t kPatches = 6;
constexpr int64_t kPatchSide = 4;
constexpr double kDeviation = 0.3;

// [1, c, h, w] -> [h * w, c].
at::Tensor Rows(const at::Tensor& image) {
  return image.flatten(2).squeeze(0).t();
}

at::Tensor WithOnes(const at::Tensor& rows) {
  return at::cat({rows, at::ones({rows.size(0), 1}, rows.options())}, 1);
}

// Without the edges of the patches.
at::Tensor Inside(const at::Tensor& image) {
  return image
      .reshape({1, image.size(1), kPatches, kPatchSide, kPatches, kPatchSide})
      .slice(3, 1, kPatchSide - 1)
      .slice(5, 1, kPatchSide - 1);
}

}  // namespace

LatentPreview::LatentPreview(const VaeDecoder& vae, int64_t channels,
                             int64_t scale, at::Device device) {
  at::Generator generator = at::detail::createCPUGenerator(/*seed=*/0);
  const at::Tensor patches =
      kDeviation * at::randn({1, channels, kPatches, kPatches}, generator,
                             at::TensorOptions().dtype(at::kFloat));
  constexpr int64_t kSide = kPatches * kPatchSide;
  const at::Tensor latents =
      at::upsample_nearest2d(patches, {{kSide, kSide}}).to(device);
  const at::Tensor pixels =
      at::avg_pool2d(vae.Forward(latents).to(at::kFloat), {scale, scale});
  // Normal equations, in float64: a few columns, far from dependent.
  const at::Tensor x =
      WithOnes(Rows(Inside(latents))).to(at::kCPU, at::kDouble);
  const at::Tensor y = Rows(Inside(pixels)).to(at::kCPU, at::kDouble);
  map_ = at::linalg_solve(at::mm(x.t(), x), at::mm(x.t(), y))
             .to(device, at::kFloat);
}

Image LatentPreview::Render(const at::Tensor& latents) const {
  return ToImage(at::mm(WithOnes(Rows(latents)), map_)
                     .t()
                     .reshape({1, 3, latents.size(2), latents.size(3)}));
}

Image ToImage(const at::Tensor& pixels) {
  const at::Tensor bytes = ((pixels / 2 + 0.5).clamp(0, 1) * 255)
                               .round()
                               .to(at::kByte)
                               .squeeze(0)
                               .permute({1, 2, 0})
                               .contiguous()
                               .to(at::kCPU);
  Image image;
  image.height = static_cast<int>(bytes.size(0));
  image.width = static_cast<int>(bytes.size(1));
  image.rgb.assign(bytes.data_ptr<uint8_t>(),
                   bytes.data_ptr<uint8_t>() + bytes.numel());
  return image;
}

}  // namespace graft
