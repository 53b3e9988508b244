#include "server/engine/cuda/cuda_kernels.h"

#include <c10/util/Exception.h>
#include <dlfcn.h>

#include "server/common/log.h"
#include "server/engine/cuda/merge_kernels.h"

namespace graft {
namespace {

struct Library {
  decltype(&GraftCudaMerge) merge = nullptr;
  decltype(&GraftCudaErrorString) error_string = nullptr;
};

// Opened once; the search path is graftd's own (beside its other libraries).
const Library& OpenLibrary() {
  static const Library* const library = [] {
    auto* const opened = new Library;
    void* const handle = dlopen("libgraft_cuda.so", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      GRAFT_LOG(kWarning, "no CUDA kernels of our own; using LibTorch's",
                {{"why", dlerror()}});
      return opened;
    }
    opened->merge = reinterpret_cast<decltype(&GraftCudaMerge)>(
        dlsym(handle, "GraftCudaMerge"));
    opened->error_string = reinterpret_cast<decltype(&GraftCudaErrorString)>(
        dlsym(handle, "GraftCudaErrorString"));
    return opened;
  }();
  return *library;
}

GraftDtype ToGraftDtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return GRAFT_FLOAT16;
    case at::kBFloat16:
      return GRAFT_BFLOAT16;
    default:
      return GRAFT_FLOAT32;
  }
}

}  // namespace

bool MergeOnCuda(const at::Tensor& live, const at::Tensor& pristine,
                 const at::Tensor& delta) {
  const Library& library = OpenLibrary();
  if (library.merge == nullptr || library.error_string == nullptr) return false;
  const int error = library.merge(live.data_ptr(), pristine.const_data_ptr(),
                                  delta.const_data_ptr<float>(), live.numel(),
                                  ToGraftDtype(live.scalar_type()));
  TORCH_CHECK(error == 0, "merge kernel: ", library.error_string(error));
  return true;
}

}  // namespace graft
