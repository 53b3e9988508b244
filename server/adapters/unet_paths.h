#ifndef GRAFT_SERVER_ADAPTERS_UNET_PATHS_H_
#define GRAFT_SERVER_ADAPTERS_UNET_PATHS_H_

#include <optional>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "server/engine/module_table.h"

namespace graft {

// Translates the module paths of a diffusers U-Net into those of the original
// code (CompVis/latent-diffusion, Stability-AI/generative-models, file
// openaimodel.py), after which many adapters name their tensors. There a
// block's layers, its attention modules and its resampler are numbered through:
// input_blocks.N, output_blocks.N. Immutable, thread-safe.
class UnetPaths {
 public:
  // Learns from `modules` which up blocks have attention modules, as that moves
  // the upsampler's number.
  explicit UnetPaths(const ModuleTable& modules);

  // "mid_block.resnets.0.conv1" (without "unet.") gives
  // "middle_block.0.in_layers.2". nullopt for a path that the original code
  // does not have.
  std::optional<std::string> ToOriginal(absl::string_view path) const;

 private:
  std::optional<std::string> DownBlock(absl::string_view path) const;
  std::optional<std::string> MidBlock(absl::string_view path) const;
  std::optional<std::string> UpBlock(absl::string_view path) const;

  const int layers_;  // of a down block, resampler included; of an up block
  std::set<int> up_blocks_with_attention_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_UNET_PATHS_H_
