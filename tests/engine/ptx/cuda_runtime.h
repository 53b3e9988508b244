#ifndef GRAFT_TESTS_ENGINE_PTX_CUDA_RUNTIME_H_
#define GRAFT_TESTS_ENGINE_PTX_CUDA_RUNTIME_H_

#include "absl/status/status.h"
#include "tests/engine/ptx/machine.h"
#include "tests/engine/ptx/memory.h"

// In a program with cuda_runtime.cc, the functions of the CUDA runtime that
// switch_kernels.cu calls are those there: what it launches runs on a Machine.
namespace graft::ptx {

// The device of all launches in its lifetime. One at a time.
class ScopedDevice {
 public:
  // Both outlive it. `machine` runs the same kernels, compiled to PTX.
  ScopedDevice(Machine& machine, GlobalMemory& memory);
  ~ScopedDevice();
  ScopedDevice(const ScopedDevice&) = delete;
  ScopedDevice& operator=(const ScopedDevice&) = delete;

  // Of the first launch that failed.
  absl::Status status() const;
};

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_CUDA_RUNTIME_H_
