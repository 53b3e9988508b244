#ifndef GRAFT_SERVER_ENGINE_CUDA_CUDA_KERNELS_H_
#define GRAFT_SERVER_ENGINE_CUDA_CUDA_KERNELS_H_

#include <ATen/core/Tensor.h>

#include <string>

namespace graft {

// live = round(pristine + delta) on a CUDA device by libgraft_cuda.so. Tensors
// as for GraftCudaMerge (merge_kernels.h). False where the library is not there
// (a build without nvcc): the caller then composes the same result of
// LibTorch's own operations. Throws c10::Error when the launch fails.
bool MergeOnCuda(const at::Tensor& live, const at::Tensor& pristine,
                 const at::Tensor& delta);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_CUDA_KERNELS_H_
