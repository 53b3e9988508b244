#ifndef GRAFT_SERVER_ENGINE_CUDA_SWITCH_KERNELS_CUDA_H_
#define GRAFT_SERVER_ENGINE_CUDA_SWITCH_KERNELS_CUDA_H_

#include <cstdint>

#include "server/engine/cuda/switch_launch.h"

// The CUDA side of the switch, in a library of its own (libgraft_cuda.so) that
// the engine opens when a CUDA device is asked for: graftd starts where there
// is neither driver nor CUDA runtime. A C interface, so that the library can be
// built with another compiler and standard than the engine.
//
// All functions run asynchronously on `stream` (a cudaStream_t) of the device
// with number `device`, and return 0 or a cudaError_t. They may leave that
// device as the thread's current one: only their caller knows how to put
// another one back without starting anything on it. Thread-compatible.
extern "C" {

// Switches the pending tiles of `launch` whose parameters have `dtype`: the
// plain ones first, then the rest. What it points to is the device's memory.
int GraftCudaSwitch(int device, void* stream, const graft::SwitchLaunch* launch,
                    graft::WeightDtype dtype);

// Writes the sum of `count` terms to `delta`, float32 [rows, cols]; both are
// the device's memory.
int GraftCudaSumTerms(int device, void* stream, const graft::DeltaTerm* terms,
                      uint32_t count, int64_t rows, int64_t cols, float* delta);

// Whether the device can run the kernels at all: it may be of a generation that
// they were not compiled for.
int GraftCudaCheck(int device);

// Writes the device's name, as the driver tells it, to `name`, at most `size`
// bytes with a terminating zero.
int GraftCudaDeviceName(int device, char* name, int size);

// Bytes of the device's memory that are free, and all of it.
int GraftCudaMemory(int device, uint64_t* free, uint64_t* total);

// The text of an error that a function here returned.
const char* GraftCudaErrorString(int error);

}  // extern "C"

#endif  // GRAFT_SERVER_ENGINE_CUDA_SWITCH_KERNELS_CUDA_H_
