#include "server/engine/torch_status.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/engine/device_lost.h"

namespace graft {
namespace {

// Errors of CUDA that stay for the life of the process, by the numbers of
// driver_types.h (whose header a build without CUDA does not have).
bool IsSticky(int32_t cuda_error) {
  switch (cuda_error) {
    case 46:   // devices unavailable
    case 214:  // uncorrectable memory error
    case 220:  // uncorrectable NVLink error
    case 226:  // contained memory error
    case 700:  // illegal address
    case 702:  // launch timeout
    case 709:  // context is destroyed
    case 710:  // assertion
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case 719:  // launch failure
    case 999:  // unknown
      return true;
    default:
      return false;
  }
}

// NVIDIA's libraries take memory beside LibTorch's, and say so in their own
// ways.
bool IsWantOfDeviceMemory(absl::string_view what) {
  for (const char* const text :
       {"CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "unable to find an engine to execute this computation"}) {
    if (absl::StrContains(what, text)) return true;
  }
  return false;
}

}  // namespace

absl::Status StatusFromCurrentException() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& e) {
    return Error(ErrorReason::kGpuOutOfMemory,
                 absl::StrCat("the device has not enough memory: ",
                              e.what_without_backtrace()));
  } catch (const c10::AcceleratorError& e) {
    constexpr int32_t kOutOfMemory = 2;
    const char* const what = e.what_without_backtrace();
    if (IsSticky(e.get_error_code())) return DeviceLostError(what);
    return Error(e.get_error_code() == kOutOfMemory
                     ? ErrorReason::kGpuOutOfMemory
                     : ErrorReason::kInternal,
                 what);
  } catch (const std::bad_alloc&) {
    return Error(ErrorReason::kGpuOutOfMemory,
                 "the host has not enough memory");
  } catch (const c10::Error& e) {
    // The CPU allocator reports a failed allocation as a plain c10::Error.
    const absl::string_view what = e.what_without_backtrace();
    if (absl::StrContains(what, "DefaultCPUAllocator")) {
      return Error(ErrorReason::kGpuOutOfMemory,
                   absl::StrCat("the host has not enough memory: ", what));
    }
    if (IsWantOfDeviceMemory(what)) {
      return Error(ErrorReason::kGpuOutOfMemory,
                   absl::StrCat("the device has not enough memory: ", what));
    }
    return Error(ErrorReason::kInternal, what);
  } catch (const std::exception& e) {
    return Error(ErrorReason::kInternal, e.what());
  } catch (...) {
    return Error(ErrorReason::kInternal, "unknown exception");
  }
}

}  // namespace graft
