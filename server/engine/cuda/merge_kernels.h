#ifndef GRAFT_SERVER_ENGINE_CUDA_MERGE_KERNELS_H_
#define GRAFT_SERVER_ENGINE_CUDA_MERGE_KERNELS_H_

#include <stdint.h>

// The CUDA side of the switch, in a library of its own (libgraft_cuda.so) that
// the engine opens when a CUDA device is asked for: graftd starts where there
// is neither driver nor CUDA runtime. A C interface, so that the library can be
// built with another compiler and standard than the engine.

#ifdef __cplusplus
extern "C" {
#endif

enum GraftDtype {
  GRAFT_FLOAT32 = 0,
  GRAFT_BFLOAT16 = 1,
  GRAFT_FLOAT16 = 2,
};

// live[i] = round(pristine[i] + delta[i]) for i in [0, count): the sum in
// float32, rounded to nearest even, in one pass and without a temporary. The
// same bits as the CPU path's `(pristine.to(float) + delta).to(dtype)`.
//
// `live` and `pristine` hold `dtype`, `delta` float32, all in the memory of the
// current device; they may not overlap. Runs asynchronously on the default
// stream. Returns 0, or a cudaError_t. Thread-compatible.
int GraftCudaMerge(void* live, const void* pristine, const float* delta,
                   int64_t count, enum GraftDtype dtype);

// The text of an error that a function here returned.
const char* GraftCudaErrorString(int error);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // GRAFT_SERVER_ENGINE_CUDA_MERGE_KERNELS_H_
