#ifndef GRAFT_SERVER_ENGINE_DEVICE_H_
#define GRAFT_SERVER_ENGINE_DEVICE_H_

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>

#include "absl/status/statusor.h"
#include "server/engine/engine_options.h"

namespace graft {

struct DeviceChoice {
  c10::Device device = c10::kCPU;
  c10::ScalarType dtype = c10::kFloat;
  std::string name;  // of the hardware
};

// The device and dtype that `options` ask for. Opens LibTorch's CUDA library
// when a CUDA device is wanted or may be there. MODEL_UNSUPPORTED when the
// named device is not there, saying why.
absl::StatusOr<DeviceChoice> ChooseDevice(const EngineOptions& options);

// "float32", "bfloat16", "float16".
std::string DtypeName(c10::ScalarType dtype);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_DEVICE_H_
