#include "server/engine/torch_status.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {

absl::Status StatusFromCurrentException() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& e) {
    return Error(ErrorReason::kGpuOutOfMemory,
                 absl::StrCat("the device has not enough memory: ",
                              e.what_without_backtrace()));
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
    return Error(ErrorReason::kInternal, what);
  } catch (const std::exception& e) {
    return Error(ErrorReason::kInternal, e.what());
  } catch (...) {
    return Error(ErrorReason::kInternal, "unknown exception");
  }
}

}  // namespace graft
