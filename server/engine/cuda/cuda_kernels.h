#ifndef GRAFT_SERVER_ENGINE_CUDA_CUDA_KERNELS_H_
#define GRAFT_SERVER_ENGINE_CUDA_CUDA_KERNELS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "server/engine/cuda/switch_launch.h"

// The functions of libgraft_cuda.so on LibTorch's current stream. They throw
// c10::Error when a launch fails. REQUIRES: CudaKernelsProblem() is empty.
namespace graft {

// Opens libgraft_cuda.so, once. Empty if it can be used, else why not (a build
// without nvcc has none).
const std::string& CudaKernelsProblem();

// Why the device with this number cannot run the functions below; empty if it
// can. Does not throw.
std::string CudaDeviceProblem(int device);

// Switches the pending tiles of `launch` whose parameters have `dtype`, in the
// device's memory.
void SwitchOnCuda(at::Device device, const SwitchLaunch& launch,
                  WeightDtype dtype);

// The sum of terms whose factors are in the device's memory, float32
// [rows, cols].
at::Tensor SumTermsOnCuda(at::Device device, absl::Span<const DeltaTerm> terms,
                          int64_t rows, int64_t cols);

// The device's name as the driver tells it ("NVIDIA A10").
std::string CudaDeviceName(at::Device device);

// Bytes of the device's memory, whoever uses them; zeros where the driver does
// not tell. Any thread.
struct CudaMemory {
  int64_t used = 0;
  int64_t total = 0;
};
CudaMemory CudaMemoryOf(at::Device device);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_CUDA_KERNELS_H_
