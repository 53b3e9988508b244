#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "server/engine/cuda/merge_kernels.h"

namespace {

constexpr int kThreads = 256;
// Enough blocks to fill the largest device a few times over; the loop in the
// kernel does the rest.
constexpr int64_t kMaxBlocks = 4096;

// Weights move in 16-byte pieces: 8 of 16 bit, 4 of 32 bit.
template <typename T>
struct alignas(16) Piece {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

__device__ float Widen(float x) { return x; }
__device__ float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float Widen(__half x) { return __half2float(x); }

template <typename T>
__device__ T Round(float x);
template <>
__device__ float Round<float>(float x) {
  return x;
}
template <>
__device__ __nv_bfloat16 Round<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __half Round<__half>(float x) {
  return __float2half_rn(x);
}

template <typename T>
__global__ void MergeKernel(T* __restrict__ live,
                            const T* __restrict__ pristine,
                            const float* __restrict__ delta, int64_t count) {
  constexpr int kSize = Piece<T>::kSize;
  const int64_t pieces = count / kSize;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first =
      static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < pieces; i += stride) {
    const Piece<T> w = reinterpret_cast<const Piece<T>*>(pristine)[i];
    Piece<T> merged;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      // __fadd_rn: never contracted with anything.
      merged.values[k] =
          Round<T>(__fadd_rn(Widen(w.values[k]), delta[i * kSize + k]));
    }
    reinterpret_cast<Piece<T>*>(live)[i] = merged;
  }
  for (int64_t i = pieces * kSize + first; i < count; i += stride) {
    live[i] = Round<T>(__fadd_rn(Widen(pristine[i]), delta[i]));
  }
}

template <typename T>
int Launch(void* live, const void* pristine, const float* delta,
           int64_t count) {
  const int64_t pieces = count / Piece<T>::kSize + 1;
  const auto blocks = static_cast<unsigned>(
      std::min((pieces + kThreads - 1) / kThreads, kMaxBlocks));
  MergeKernel<T><<<blocks, kThreads>>>(
      static_cast<T*>(live), static_cast<const T*>(pristine), delta, count);
  return cudaGetLastError();
}

}  // namespace

int GraftCudaMerge(void* live, const void* pristine, const float* delta,
                   int64_t count, GraftDtype dtype) {
  if (count <= 0) return cudaSuccess;
  switch (dtype) {
    case GRAFT_FLOAT32:
      return Launch<float>(live, pristine, delta, count);
    case GRAFT_BFLOAT16:
      return Launch<__nv_bfloat16>(live, pristine, delta, count);
    case GRAFT_FLOAT16:
      return Launch<__half>(live, pristine, delta, count);
  }
  return cudaErrorInvalidValue;
}

const char* GraftCudaErrorString(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
