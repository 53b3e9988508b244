#include "server/engine/models/layers.h"

#include <ATen/ATen.h>

#include <utility>

#include "server/common/status_macros.h"

namespace graft {

at::Tensor Linear::Forward(const at::Tensor& x) const {
  return at::linear(x, weight, bias);
}

at::Tensor Conv2d::Forward(const at::Tensor& x) const {
  return at::conv2d(x, weight, bias, stride, padding);
}

at::Tensor GroupNorm::Forward(const at::Tensor& x) const {
  return at::group_norm(x, groups, weight, bias, eps);
}

at::Tensor LayerNorm::Forward(const at::Tensor& x) const {
  return at::layer_norm(x, weight.sizes(), weight, bias, eps);
}

at::Tensor Attention(const at::Tensor& q, const at::Tensor& k,
                     const at::Tensor& v, int64_t heads, bool causal,
                     bool upcast) {
  const auto split = [&](const at::Tensor& x) {
    const at::Tensor parts =
        x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
    return upcast ? parts.to(at::kFloat) : parts;
  };
  const at::Tensor out = at::scaled_dot_product_attention(
      split(q), split(k), split(v), {}, 0.0, causal);
  return out.transpose(1, 2).reshape(q.sizes()).to(q.scalar_type());
}

at::Tensor LayerBuilder::Take(const std::string& name,
                              const std::vector<int64_t>& shape) {
  if (!status_.ok()) return {};
  absl::StatusOr<at::Tensor> tensor = store_->Get(name, shape);
  if (tensor.ok()) return *std::move(tensor);
  status_ = tensor.status();
  return {};
}

void LayerBuilder::Record(const std::string& name, ModuleKind kind,
                          std::vector<int64_t> shape, bool has_bias) {
  if (modules_ == nullptr) return;
  modules_->push_back({name, kind, std::move(shape), has_bias});
}

Linear LayerBuilder::MakeLinear(const std::string& name, int64_t in,
                                int64_t out, bool bias) {
  Record(name, ModuleKind::kLinear, {out, in}, bias);
  Linear layer;
  layer.weight = Take(name + ".weight", {out, in});
  if (bias) layer.bias = Take(name + ".bias", {out});
  return layer;
}

Conv2d LayerBuilder::MakeConv2d(const std::string& name, int64_t in,
                                int64_t out, int64_t kernel, int64_t stride,
                                int64_t padding) {
  Record(name, ModuleKind::kConv2d, {out, in, kernel, kernel}, true);
  return {Take(name + ".weight", {out, in, kernel, kernel}),
          Take(name + ".bias", {out}), stride, padding};
}

GroupNorm LayerBuilder::MakeGroupNorm(const std::string& name, int64_t channels,
                                      int64_t groups, double eps) {
  Record(name, ModuleKind::kNorm, {channels}, true);
  return {Take(name + ".weight", {channels}), Take(name + ".bias", {channels}),
          groups, eps};
}

LayerNorm LayerBuilder::MakeLayerNorm(const std::string& name, int64_t width,
                                      double eps) {
  Record(name, ModuleKind::kNorm, {width}, true);
  return {Take(name + ".weight", {width}), Take(name + ".bias", {width}), eps};
}

at::Tensor LayerBuilder::MakeEmbedding(const std::string& name, int64_t rows,
                                       int64_t width) {
  Record(name, ModuleKind::kEmbedding, {rows, width}, false);
  return Take(name + ".weight", {rows, width});
}

}  // namespace graft
