#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_WEIGHT_STORE_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_WEIGHT_STORE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// The live parameters of the base under their canonical names
// ("unet.conv_in.weight"), each in memory of its own whose address never
// changes after load: the networks hold tensors that share this storage, so a
// write here is what they compute with, and captured graphs stay valid.
//
// Written at load, by AdapterSwitcher, and to repair what memory lost. Not
// thread-safe.
class WeightStore {
 public:
  WeightStore(at::Device device, at::ScalarType dtype);

  // Copies `view` to the device, converted to `dtype` (the store's own if
  // undefined). REQUIRES: floating point, and a name not added before.
  void Add(const std::string& name, const TensorView& view,
           at::ScalarType dtype = at::ScalarType::Undefined);

  // Writes `view` over the parameter `name`, in place. REQUIRES:
  // Contains(name), and the shape that was added.
  void Overwrite(const std::string& name, const TensorView& view) const;

  // The parameter `name`, checked to have `shape`. The tensor shares the
  // store's memory. MODEL_UNSUPPORTED names what is missing or does not fit.
  absl::StatusOr<at::Tensor> Get(absl::string_view name,
                                 absl::Span<const int64_t> shape);

  bool Contains(absl::string_view name) const;

  // REQUIRES: Contains(name).
  const at::Tensor& at(absl::string_view name) const;

  // Names that were added but never asked for by Get, in order.
  std::vector<std::string> UnusedNames() const;

  const std::map<std::string, at::Tensor, std::less<>>& tensors() const {
    return tensors_;
  }
  int64_t total_bytes() const { return total_bytes_; }
  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }

 private:
  const at::Device device_;
  const at::ScalarType dtype_;
  std::map<std::string, at::Tensor, std::less<>> tensors_;
  std::map<std::string, bool, std::less<>> used_;
  int64_t total_bytes_ = 0;
};

// The element type as LibTorch names it. REQUIRES: IsFloatingPoint(dtype).
at::ScalarType ToScalarType(TensorDtype dtype);

// A host tensor that owns a copy of `view`'s elements.
at::Tensor CopyToTensor(const TensorView& view);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_WEIGHT_STORE_H_
