#ifndef GRAFT_SERVER_ENGINE_MODELS_CLIP_TEXT_MODEL_H_
#define GRAFT_SERVER_ENGINE_MODELS_CLIP_TEXT_MODEL_H_

#include <vector>

#include "server/engine/models/layers.h"
#include "server/engine/models/model_config.h"

namespace graft {

// The text transformer of CLIP (arXiv:2103.00020), as transformers'
// CLIPTextModel computes it.
class ClipTextModel {
 public:
  // Parameters "text_encoder.text_model...."; check builder.status() after it.
  ClipTextModel(const TextEncoderConfig& config, LayerBuilder& builder);

  // Token ids [n, t] (int64, on the device), t <= max_position_embeddings ->
  // last_hidden_state [n, t, hidden_size], the final layer norm applied.
  at::Tensor Forward(const at::Tensor& ids) const;

 private:
  struct Layer {
    LayerNorm layer_norm1;
    Linear q_proj, k_proj, v_proj, out_proj;
    LayerNorm layer_norm2;
    Linear fc1, fc2;
  };

  at::Tensor Activate(const at::Tensor& x) const;

  TextEncoderConfig config_;
  at::Tensor token_embedding_;
  at::Tensor position_embedding_;
  std::vector<Layer> layers_;
  LayerNorm final_layer_norm_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_CLIP_TEXT_MODEL_H_
