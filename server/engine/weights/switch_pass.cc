#include "server/engine/weights/switch_pass.h"

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/engine/cuda/cuda_switch_pass.h"
#include "server/engine/weights/cpu_switch_pass.h"

namespace graft {

std::vector<uint64_t> FirstTiles(absl::Span<const ParameterSwitch> parameters) {
  std::vector<uint64_t> first;
  first.reserve(parameters.size() + 1);
  first.push_back(0);
  for (const ParameterSwitch& parameter : parameters) {
    first.push_back(first.back() +
                    static_cast<uint64_t>(parameter.grid->num_tiles()));
  }
  return first;
}

std::unique_ptr<SwitchPass> MakeSwitchPass(at::Device device) {
  if (device.is_cuda()) return std::make_unique<CudaSwitchPass>(device);
  return std::make_unique<CpuSwitchPass>();
}

WeightDtype ToWeightDtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return WeightDtype::kFloat16;
    case at::kBFloat16:
      return WeightDtype::kBFloat16;
    default:
      return WeightDtype::kFloat32;
  }
}

MatrixSize MatrixSizeOf(const at::Tensor& parameter) {
  const int64_t rows = parameter.dim() > 1 ? parameter.size(0) : 1;
  return {rows, rows == 0 ? 0 : parameter.numel() / rows};
}

absl::Status DriftError(absl::string_view parameter) {
  return Error(ErrorReason::kBaseWeightsDrift,
               absl::StrCat("the resident weights of \"", parameter,
                            "\" are not what was written there; verify the "
                            "base weights, and suspect the memory"),
               {{"tensors", std::string(parameter)}});
}

}  // namespace graft
