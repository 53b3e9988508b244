#include "server/engine/cuda/cuda_kernels.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "server/engine/cuda/switch_kernels_cuda.h"

namespace graft {
namespace {

struct Library {
  std::string problem;
  decltype(&GraftCudaSwitch) run_switch = nullptr;
  decltype(&GraftCudaSumTerms) sum_terms = nullptr;
  decltype(&GraftCudaCheck) check = nullptr;
  decltype(&GraftCudaDeviceName) device_name = nullptr;
  decltype(&GraftCudaMemory) memory = nullptr;
  decltype(&GraftCudaErrorString) error_string = nullptr;
};

template <class Function>
void Find(void* handle, const char* name, Function& function,
          std::string& problem) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  if (function == nullptr) {
    problem = absl::StrCat("libgraft_cuda.so is of another build: no ", name);
  }
}

// The search path is graftd's own (beside its other libraries).
Library Open() {
  Library library;
  void* const handle = dlopen("libgraft_cuda.so", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.problem =
        absl::StrCat("this build of graftd has no CUDA kernels (", dlerror(),
                     "); build it where nvcc is, with -DGRAFT_ENABLE_CUDA=ON");
    return library;
  }
  Find(handle, "GraftCudaSwitch", library.run_switch, library.problem);
  Find(handle, "GraftCudaSumTerms", library.sum_terms, library.problem);
  Find(handle, "GraftCudaCheck", library.check, library.problem);
  Find(handle, "GraftCudaDeviceName", library.device_name, library.problem);
  Find(handle, "GraftCudaMemory", library.memory, library.problem);
  Find(handle, "GraftCudaErrorString", library.error_string, library.problem);
  return library;
}

const Library& TheLibrary() {
  static const Library* const library = new Library(Open());
  return *library;
}

void* CurrentStream(at::Device device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return guard.getStreamNativeHandle(guard.getStream(device));
}

// As LibTorch reports its own.
void Check(int error) {
  if (error == 0) return;
  throw c10::AcceleratorError(
      {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, error,
      absl::StrCat("CUDA kernel: ", TheLibrary().error_string(error)));
}

}  // namespace

// The library changes the thread's current device. c10::DeviceGuard puts the
// former one back without making a context there, which would take memory of a
// device that is not ours, and could fail.

const std::string& CudaKernelsProblem() { return TheLibrary().problem; }

std::string CudaDeviceProblem(int device) {
  try {
    const c10::DeviceGuard guard(
        {at::kCUDA, static_cast<c10::DeviceIndex>(device)});
    const int error = TheLibrary().check(device);
    if (error == 0) return "";
    return absl::StrCat("it cannot run graftd's kernels (",
                        TheLibrary().error_string(error),
                        "); they need compute capability 8.0 or later");
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  }
}

void SwitchOnCuda(at::Device device, const SwitchLaunch& launch,
                  WeightDtype dtype) {
  const c10::DeviceGuard guard(device);
  Check(TheLibrary().run_switch(device.index(), CurrentStream(device), &launch,
                                dtype));
}

at::Tensor SumTermsOnCuda(at::Device device, absl::Span<const DeltaTerm> terms,
                          int64_t rows, int64_t cols) {
  const c10::DeviceGuard guard(device);
  const auto bytes = static_cast<int64_t>(terms.size() * sizeof(DeltaTerm));
  const at::Tensor table = at::empty({bytes}, at::kByte);
  std::memcpy(table.data_ptr(), terms.data(), static_cast<size_t>(bytes));
  const at::Tensor on_device = table.to(device);
  const at::Tensor delta = at::empty(
      {rows, cols}, at::TensorOptions().dtype(at::kFloat).device(device));
  Check(TheLibrary().sum_terms(
      device.index(), CurrentStream(device),
      static_cast<const DeltaTerm*>(on_device.const_data_ptr()),
      static_cast<uint32_t>(terms.size()), rows, cols,
      delta.data_ptr<float>()));
  return delta;
}

std::string CudaDeviceName(at::Device device) {
  char name[256];
  Check(TheLibrary().device_name(device.index(), name, sizeof(name)));
  return name;
}

CudaMemory CudaMemoryOf(at::Device device) {
  try {
    const c10::DeviceGuard guard(device);
    uint64_t free = 0, total = 0;
    if (TheLibrary().memory(device.index(), &free, &total) != 0) return {};
    return {static_cast<int64_t>(total - free), static_cast<int64_t>(total)};
  } catch (const c10::Error&) {
    return {};
  }
}

}  // namespace graft
