#ifndef GRAFT_SERVER_ENGINE_MODULE_TABLE_H_
#define GRAFT_SERVER_ENGINE_MODULE_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft {

// The families that share adapters. Read from the U-Net's config.
enum class BaseFamily { kSd1, kSd2, kSdxl, kOther };

// "SD 1.x", "SD 2.x", "SDXL", "other".
absl::string_view BaseFamilyName(BaseFamily family);

enum class ModuleKind { kLinear, kConv2d, kNorm, kEmbedding };

// One module of the base that an adapter may target. Plain data.
struct ModuleInfo {
  // Canonical: "unet.mid_block.resnets.0.conv1",
  // "text_encoder.text_model.encoder.layers.0.mlp.fc1". The parameters are this
  // plus ".weight" and ".bias".
  std::string name;
  ModuleKind kind = ModuleKind::kLinear;
  // Linear [out, in]; Conv2d [out, in, kh, kw]; norm [channels]; embedding
  // [rows, width].
  std::vector<int64_t> weight_shape;
  bool has_bias = false;
};

// Every module of U-Net and text encoder, sorted by name.
struct ModuleTable {
  BaseFamily family = BaseFamily::kOther;
  // Of the U-Net, for the original (LDM) numbering of its blocks. 0 where the
  // levels differ: then there is no such numbering.
  int unet_layers_per_block = 2;
  std::vector<ModuleInfo> modules;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODULE_TABLE_H_
