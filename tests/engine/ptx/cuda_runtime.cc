#include "tests/engine/ptx/cuda_runtime.h"

#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft::ptx {
namespace {

// Of the generations that the kernels are compiled for the one with the least
// (sm_86, sm_89), and what a kernel gets unasked.
constexpr int kMostSharedBytes = 99 * 1024;
constexpr int kSharedBytesUnasked = 48 * 1024;

struct HostKernel {
  std::string name;
  int most_shared_bytes = kSharedBytesUnasked;
};

struct Configuration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

struct Runtime {
  std::map<const void*, HostKernel> kernels;  // by what the host calls them
  Configuration next;                         // of the launch that comes
  Machine* machine = nullptr;
  GlobalMemory* memory = nullptr;
  absl::Status status;
  cudaError_t last_error = cudaSuccess;
};

Runtime& TheRuntime() {
  static Runtime* const runtime = new Runtime;
  return *runtime;
}

// What is left of the name of a kernel of an unnamed namespace without the
// compilation that nvcc puts into it, as PTX comes from another one.
absl::string_view WithoutCompilation(absl::string_view name) {
  constexpr absl::string_view kFile = "_cu_";
  constexpr size_t kHashDigits = 8;
  const size_t at = name.find(kFile);
  if (at == absl::string_view::npos) return name;
  return name.substr(at + kFile.size() + kHashDigits);
}

absl::Status LaunchKernel(const HostKernel& kernel,
                          const Configuration& configuration,
                          const void* const* arguments) {
  Runtime& runtime = TheRuntime();
  if (runtime.machine == nullptr) return absl::UnavailableError("no device");
  if (configuration.shared_bytes >
      static_cast<size_t>(kernel.most_shared_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(configuration.shared_bytes, " bytes of shared memory"));
  }
  for (const auto& [name, function] : runtime.machine->functions()) {
    if (WithoutCompilation(name) != WithoutCompilation(kernel.name)) continue;
    return runtime.machine->Run(function,
                                {configuration.grid.x, configuration.block.x,
                                 configuration.shared_bytes},
                                arguments, *runtime.memory);
  }
  return absl::NotFoundError("not in the PTX");
}

cudaError_t Launch(const void* host_function,
                   const Configuration& configuration,
                   const void* const* arguments) {
  Runtime& runtime = TheRuntime();
  const HostKernel& kernel = runtime.kernels[host_function];
  const absl::Status status = LaunchKernel(kernel, configuration, arguments);
  if (status.ok()) return cudaSuccess;
  if (runtime.status.ok()) {
    runtime.status = absl::Status(
        status.code(),
        absl::StrCat(WithoutCompilation(kernel.name), ": ", status.message()));
  }
  return runtime.last_error = cudaErrorLaunchFailure;
}

}  // namespace

ScopedDevice::ScopedDevice(Machine& machine, GlobalMemory& memory) {
  TheRuntime().machine = &machine;
  TheRuntime().memory = &memory;
  TheRuntime().status = absl::OkStatus();
}

ScopedDevice::~ScopedDevice() {
  TheRuntime().machine = nullptr;
  TheRuntime().memory = nullptr;
}

absl::Status ScopedDevice::status() const { return TheRuntime().status; }

}  // namespace graft::ptx

using graft::ptx::TheRuntime;

extern "C" {

// ---- What nvcc makes of kernels and launches --------------------------------

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void**, const char* host_function, char*,
                            const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  TheRuntime().kernels[host_function].name = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     CUstream_st*) {
  TheRuntime().next = {grid, block, shared_bytes};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block,
                                       size_t* shared_bytes, void*) {
  const auto& next = TheRuntime().next;
  *grid = next.grid;
  *block = next.block;
  *shared_bytes = next.shared_bytes;
  return cudaSuccess;
}

// CUDA 13 launches what this finds, CUDA 12 by cudaLaunchKernel.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(host_function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block,
                               void** arguments, size_t shared_bytes,
                               cudaStream_t) {
  return graft::ptx::Launch(kernel, {grid, block, shared_bytes}, arguments);
}

// ---- What switch_kernels.cu calls -------------------------------------------

cudaError_t cudaLaunchKernel(const void* host_function, dim3 grid, dim3 block,
                             void** arguments, size_t shared_bytes,
                             cudaStream_t) {
  return graft::ptx::Launch(host_function, {grid, block, shared_bytes},
                            arguments);
}

cudaError_t cudaFuncSetAttribute(const void* host_function,
                                 cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize ||
      value > graft::ptx::kMostSharedBytes) {
    return cudaErrorInvalidValue;
  }
  TheRuntime().kernels[host_function].most_shared_bytes = value;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return cudaSuccess;
}

// One processor, so that warps have to take several tiles.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = 1;
  return attribute == cudaDevAttrMultiProcessorCount ? cudaSuccess
                                                     : cudaErrorInvalidValue;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaGetLastError() {
  return std::exchange(TheRuntime().last_error, cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int) {
  return cudaErrorNotSupported;
}

cudaError_t cudaMemGetInfo(size_t*, size_t*) { return cudaErrorNotSupported; }

const char* cudaGetErrorString(cudaError_t) { return "no CUDA runtime"; }

}  // extern "C"
