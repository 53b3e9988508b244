#ifndef GRAFT_SERVER_ENGINE_MODELS_LAYERS_H_
#define GRAFT_SERVER_ENGINE_MODELS_LAYERS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/engine/module_table.h"
#include "server/engine/weights/weight_store.h"

// The layers that text encoder, U-Net and VAE are built of. Each holds tensors
// that share the weight store's memory, so a switch of adapters is seen by the
// next forward pass. Forward functions are const and have no side effects.
namespace graft {

struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], undefined if there is none
  // x [..., in] -> [..., out]
  at::Tensor Forward(const at::Tensor& x) const;
};

struct Conv2d {
  at::Tensor weight;  // [out, in, k, k]
  at::Tensor bias;    // [out]
  int64_t stride = 1;
  int64_t padding = 0;
  // x [n, in, h, w] -> [n, out, h', w']
  at::Tensor Forward(const at::Tensor& x) const;
};

struct GroupNorm {
  at::Tensor weight;  // [channels]
  at::Tensor bias;
  int64_t groups = 32;
  double eps = 1e-5;
  at::Tensor Forward(const at::Tensor& x) const;
};

struct LayerNorm {
  at::Tensor weight;  // [width]
  at::Tensor bias;
  double eps = 1e-5;
  at::Tensor Forward(const at::Tensor& x) const;
};

// softmax(q k^T / sqrt(d)) v with `heads` heads: q [n, tq, c], k and v
// [n, tk, c] -> [n, tq, c]. `causal` hides later keys. `upcast` computes in
// float32 whatever the dtype.
at::Tensor Attention(const at::Tensor& q, const at::Tensor& k,
                     const at::Tensor& v, int64_t heads, bool causal,
                     bool upcast);

// Takes parameters out of the store with the shapes the config calls for and
// records each module that an adapter could target. The first failure stays in
// status(); layers made after it are empty and must not be used.
class LayerBuilder {
 public:
  // `modules` may be null (VAE: not a target).
  LayerBuilder(WeightStore* store, std::vector<ModuleInfo>* modules)
      : store_(store), modules_(modules) {}

  Linear MakeLinear(const std::string& name, int64_t in, int64_t out,
                    bool bias = true);
  Conv2d MakeConv2d(const std::string& name, int64_t in, int64_t out,
                    int64_t kernel, int64_t stride = 1, int64_t padding = 0);
  GroupNorm MakeGroupNorm(const std::string& name, int64_t channels,
                          int64_t groups, double eps);
  LayerNorm MakeLayerNorm(const std::string& name, int64_t width, double eps);
  at::Tensor MakeEmbedding(const std::string& name, int64_t rows,
                           int64_t width);

  const absl::Status& status() const { return status_; }

 private:
  at::Tensor Take(const std::string& name, const std::vector<int64_t>& shape);
  void Record(const std::string& name, ModuleKind kind,
              std::vector<int64_t> shape, bool has_bias);

  WeightStore* const store_;
  std::vector<ModuleInfo>* const modules_;
  absl::Status status_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_LAYERS_H_
