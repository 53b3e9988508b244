#ifndef GRAFT_TESTS_PARITY_TENSOR_FILE_H_
#define GRAFT_TESTS_PARITY_TENSOR_FILE_H_

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace graft {

using Tensors = std::map<std::string, at::Tensor>;

// The floating-point tensors of a safetensors file.
absl::StatusOr<Tensors> ReadTensors(const std::string& path);

// Writes float32, float16, bfloat16 and uint8 tensors as a safetensors file.
absl::Status WriteTensors(const Tensors& tensors, const std::string& path);

}  // namespace graft

#endif  // GRAFT_TESTS_PARITY_TENSOR_FILE_H_
