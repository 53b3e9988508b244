#include "server/engine/models/clip_text_model.h"

#include <ATen/ATen.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace graft {

ClipTextModel::ClipTextModel(const TextEncoderConfig& config,
                             LayerBuilder& builder)
    : config_(config) {
  const std::string root = "text_encoder.text_model.";
  const int64_t width = config.hidden_size;
  token_embedding_ = builder.MakeEmbedding(root + "embeddings.token_embedding",
                                           config.vocab_size, width);
  position_embedding_ =
      builder.MakeEmbedding(root + "embeddings.position_embedding",
                            config.max_position_embeddings, width);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat(root, "encoder.layers.", i, ".");
    const std::string attention = layer + "self_attn.";
    layers_.push_back({
        builder.MakeLayerNorm(layer + "layer_norm1", width,
                              config.layer_norm_eps),
        builder.MakeLinear(attention + "q_proj", width, width),
        builder.MakeLinear(attention + "k_proj", width, width),
        builder.MakeLinear(attention + "v_proj", width, width),
        builder.MakeLinear(attention + "out_proj", width, width),
        builder.MakeLayerNorm(layer + "layer_norm2", width,
                              config.layer_norm_eps),
        builder.MakeLinear(layer + "mlp.fc1", width, config.intermediate_size),
        builder.MakeLinear(layer + "mlp.fc2", config.intermediate_size, width),
    });
  }
  final_layer_norm_ = builder.MakeLayerNorm(root + "final_layer_norm", width,
                                            config.layer_norm_eps);
}

at::Tensor ClipTextModel::Activate(const at::Tensor& x) const {
  // CLIP's own models use the sigmoid approximation.
  if (config_.hidden_act == "quick_gelu") return x * at::sigmoid(1.702 * x);
  return at::gelu(x);
}

at::Tensor ClipTextModel::Forward(const at::Tensor& ids) const {
  at::Tensor x = at::embedding(token_embedding_, ids) +
                 position_embedding_.slice(0, 0, ids.size(1));
  for (const Layer& layer : layers_) {
    const at::Tensor normed = layer.layer_norm1.Forward(x);
    x = x + layer.out_proj.Forward(Attention(
                layer.q_proj.Forward(normed), layer.k_proj.Forward(normed),
                layer.v_proj.Forward(normed), config_.num_attention_heads,
                /*causal=*/true, /*upcast=*/false));
    x = x + layer.fc2.Forward(
                Activate(layer.fc1.Forward(layer.layer_norm2.Forward(x))));
  }
  return final_layer_norm_.Forward(x);
}

}  // namespace graft
