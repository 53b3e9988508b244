#ifndef GRAFT_SERVER_ENGINE_MODELS_BASE_MODEL_H_
#define GRAFT_SERVER_ENGINE_MODELS_BASE_MODEL_H_

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/engine/models/clip_text_model.h"
#include "server/engine/models/model_config.h"
#include "server/engine/models/unet_2d_condition.h"
#include "server/engine/models/vae_decoder.h"
#include "server/engine/module_table.h"
#include "server/engine/weights/weight_store.h"
#include "server/tokenizer/clip_tokenizer.h"

namespace graft {

// One base as loaded from a diffusers-format folder. The networks' tensors
// share the store's memory.
struct BaseModel {
  std::string name;    // the folder's
  std::string sha256;  // ModelFiles::Sha256()
  std::string scheduler_config_path;
  UnetConfig unet_config;
  VaeConfig vae_config;
  TextEncoderConfig text_config;
  std::unique_ptr<ClipTokenizer> tokenizer;
  std::unique_ptr<WeightStore> store;
  std::unique_ptr<ClipTextModel> text_model;
  std::unique_ptr<Unet2dCondition> unet;
  std::unique_ptr<VaeDecoder> vae;
  ModuleTable modules;  // of U-Net and text encoder
};

// Reads configs, tokenizer and weights of `folder` and puts the weights on
// `device` in `dtype`. MODEL_UNSUPPORTED names file and key; throws what
// LibTorch throws.
absl::StatusOr<BaseModel> LoadBaseModel(const std::string& folder,
                                        c10::Device device,
                                        c10::ScalarType dtype);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_BASE_MODEL_H_
