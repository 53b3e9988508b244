#ifndef GRAFT_SERVER_ADAPTERS_TENSOR_VALUES_H_
#define GRAFT_SERVER_ADAPTERS_TENSOR_VALUES_H_

#include <optional>

#include "server/safetensors/tensor_view.h"

// Looking at the numbers of a tensor that nobody has checked yet.
namespace graft {

enum class TensorContent {
  kNonFinite,  // NaN or infinity, or beyond what float32 holds
  kAllZero,    // or empty
  kFinite,
};

// REQUIRES: IsFloatingPoint(tensor.dtype).
TensorContent ScanTensor(const TensorView& tensor);

// The value of a tensor with one element and any integer or IsFloatingPoint()
// type; nullopt for everything else.
std::optional<double> ReadScalar(const TensorView& tensor);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_TENSOR_VALUES_H_
