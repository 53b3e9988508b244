#ifndef GRAFT_SERVER_ENGINE_MODELS_MODEL_FILES_H_
#define GRAFT_SERVER_ENGINE_MODELS_MODEL_FILES_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/safetensors/safetensors_file.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// The tensors of a diffusers-format folder
// (huggingface.co/docs/diffusers/using-diffusers/other-formats), mapped and
// checked, under their canonical names: "unet.", "text_encoder.text_model." and
// "vae." in front. The views live as long as this object.
class ModelFiles {
 public:
  // Opens model_index.json and the weights of U-Net, text encoder and VAE.
  // Errors (MODEL_UNSUPPORTED) name the file.
  static absl::StatusOr<ModelFiles> Open(const std::string& folder);

  // Path of a file of the folder.
  std::string Path(absl::string_view relative) const;

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

  // SHA-256 over the sorted tensors: for each its canonical name, dtype, shape
  // ("320,4,3,3") and bytes, the first three each ended by a line feed.
  // Independent of sharding and of the dtype computed in. Takes as long as
  // reading the files.
  std::string Sha256() const;

 private:
  ModelFiles() = default;
  absl::Status AddComponent(absl::string_view component);
  absl::Status AddFile(absl::string_view component, const std::string& path,
                       const std::vector<std::string>* only);

  std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_MODEL_FILES_H_
