#include "server/engine/weights/weight_store.h"

#include <ATen/ATen.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/common/error.h"

namespace graft {

WeightStore::WeightStore(at::Device device, at::ScalarType dtype)
    : device_(device), dtype_(dtype) {}

void WeightStore::Add(const std::string& name, const TensorView& view,
                      at::ScalarType dtype) {
  if (dtype == at::ScalarType::Undefined) dtype = dtype_;
  at::Tensor tensor = CopyToTensor(view).to(device_, dtype).contiguous();
  total_bytes_ += static_cast<int64_t>(tensor.nbytes());
  used_[name] = false;
  tensors_[name] = std::move(tensor);
}

void WeightStore::Overwrite(const std::string& name,
                            const TensorView& view) const {
  this->at(name).copy_(CopyToTensor(view));
}

absl::StatusOr<at::Tensor> WeightStore::Get(absl::string_view name,
                                            absl::Span<const int64_t> shape) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat("the model's files have no tensor \"", name,
                              "\", which its config.json calls for"),
                 {{"tensor", std::string(name)}});
  }
  const at::IntArrayRef found = it->second.sizes();
  if (found != at::IntArrayRef(shape.data(), shape.size())) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat("tensor \"", name, "\" has shape [",
                              absl::StrJoin(found, ", "),
                              "], but config.json calls for [",
                              absl::StrJoin(shape, ", "), "]"),
                 {{"tensor", std::string(name)}});
  }
  used_.find(name)->second = true;
  return it->second;
}

bool WeightStore::Contains(absl::string_view name) const {
  return tensors_.find(name) != tensors_.end();
}

const at::Tensor& WeightStore::at(absl::string_view name) const {
  return tensors_.find(name)->second;
}

std::vector<std::string> WeightStore::UnusedNames() const {
  std::vector<std::string> names;
  for (const auto& [name, used] : used_) {
    if (!used) names.push_back(name);
  }
  return names;
}

at::ScalarType ToScalarType(TensorDtype dtype) {
  switch (dtype) {
    case TensorDtype::kF64:
      return at::kDouble;
    case TensorDtype::kF16:
      return at::kHalf;
    case TensorDtype::kBF16:
      return at::kBFloat16;
    default:
      return at::kFloat;
  }
}

at::Tensor CopyToTensor(const TensorView& view) {
  at::Tensor tensor = at::empty(view.shape, ToScalarType(view.dtype));
  std::memcpy(tensor.data_ptr(), view.bytes.data(), view.bytes.size());
  return tensor;
}

}  // namespace graft
