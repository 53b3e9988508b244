#ifndef GRAFT_SERVER_ENGINE_TORCH_STATUS_H_
#define GRAFT_SERVER_ENGINE_TORCH_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The one place where LibTorch's exceptions become Statuses.
namespace graft {

// The Status of the exception now being handled: out of memory (device or host)
// is GPU_OUT_OF_MEMORY, anything else INTERNAL; IsDeviceLost() if the device's
// driver will not get over it. REQUIRES: called from a catch block.
absl::Status StatusFromCurrentException();

// Runs `f`, which returns a Status or a StatusOr, and turns what it throws into
// one. Every public method of the engine goes through here.
template <typename F>
auto CatchTorchErrors(F&& f) -> decltype(f()) {
  try {
    return std::forward<F>(f)();
  } catch (...) {
    return StatusFromCurrentException();
  }
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_TORCH_STATUS_H_
