#include "server/engine/device.h"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/engine/cuda/cuda_kernels.h"

namespace graft {
namespace {

// Loads LibTorch's CUDA library into the process, which registers the device.
// graftd is linked with the CPU part alone, so that it starts where no CUDA
// library is. Empty when a CUDA device can be used, else the reason why not.
std::string OpenCuda() {
  static const std::string* const problem = [] {
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      return new std::string(absl::StrCat(
          dlerror(),
          "; LibTorch's part for CUDA comes with deploy/install.sh --cuda, or "
          "with an image that is built with DEVICE=cuda"));
    }
    if (!at::globalContext().hasCUDA()) {
      return new std::string("no CUDA driver or device was found");
    }
    return new std::string(CudaKernelsProblem());
  }();
  return *problem;
}

// Why the CUDA device with this number cannot be used; empty if it can.
// REQUIRES: OpenCuda().empty().
std::string DeviceProblem(int index) {
  const int count =
      c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).deviceCount();
  if (index < count) return CudaDeviceProblem(index);
  return absl::StrCat("the highest number here is cuda:", count - 1);
}

std::string CpuName() {
  std::ifstream stream("/proc/cpuinfo");
  std::string line;
  while (std::getline(stream, line)) {
    if (absl::StartsWith(line, "model name")) {
      const size_t colon = line.find(':');
      if (colon != std::string::npos) {
        return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
      }
    }
  }
  return "CPU";
}

// Whether there is an NVIDIA device at all: cheaper than to load a gigabyte of
// libraries to find out.
bool HasNvidiaDevice() {
  return std::ifstream("/dev/nvidiactl").good() ||
         std::ifstream("/dev/dxg").good();
}

c10::ScalarType ToScalarType(ComputeDtype dtype, bool cuda) {
  switch (dtype) {
    case ComputeDtype::kFloat32:
      return c10::kFloat;
    case ComputeDtype::kBFloat16:
      return c10::kBFloat16;
    case ComputeDtype::kFloat16:
      return c10::kHalf;
    case ComputeDtype::kAuto:
      break;
  }
  return cuda ? c10::kHalf : c10::kFloat;
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const EngineOptions& options) {
  DeviceChoice choice;
  int index = 0;
  bool cuda = false;
  if (options.device == "auto") {
    if (HasNvidiaDevice()) {
      std::string problem = OpenCuda();
      if (problem.empty()) problem = DeviceProblem(index);
      cuda = problem.empty();
      if (!cuda) {
        GRAFT_LOG(kWarning, "a GPU is there but cannot be used; using the CPU",
                  {{"why", problem}});
      }
    }
  } else if (absl::StartsWith(options.device, "cuda:") &&
             absl::SimpleAtoi(options.device.substr(5), &index) && index >= 0) {
    std::string problem = OpenCuda();
    if (problem.empty()) problem = DeviceProblem(index);
    if (!problem.empty()) {
      return Error(ErrorReason::kModelUnsupported,
                   absl::StrCat("--device=", options.device,
                                " cannot be used: ", problem));
    }
    cuda = true;
  } else if (options.device != "cpu") {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat("--device=", options.device,
                              " is none of auto, cpu, cuda:N"));
  }
  choice.dtype = ToScalarType(options.dtype, cuda);
  choice.name = CpuName();
  if (cuda) {
    choice.device =
        c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
    choice.name = CudaDeviceName(choice.device);
  }
  return choice;
}

std::string DtypeName(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kHalf:
      return "float16";
    case c10::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

}  // namespace graft
