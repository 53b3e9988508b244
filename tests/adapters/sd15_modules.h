#ifndef GRAFT_TESTS_ADAPTERS_SD15_MODULES_H_
#define GRAFT_TESTS_ADAPTERS_SD15_MODULES_H_

#include "server/engine/module_table.h"

namespace graft {

// The modules of Stable Diffusion 1.5: names and shapes of its U-Net
// (block_out_channels 320, 640, 1280, 1280) and text encoder (CLIP ViT-L/14).
ModuleTable Sd15Modules();

}  // namespace graft

#endif  // GRAFT_TESTS_ADAPTERS_SD15_MODULES_H_
