#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>

#include "server/engine/cuda/plain_tile.h"
#include "server/engine/cuda/switch_kernels_cuda.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/cuda/warp_tile.h"

namespace graft {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr int kThreads = kWarpsPerBlock * kLanes;
constexpr unsigned kAllLanes = 0xffffffffu;

// How many blocks a processor shall have, the more the fewer registers are left
// for each: as many as the plain kernels have enough registers for, and a few
// more for the general one, as warps hide the latency of memory.
// The memory that they share is enough for that on an sm_80 or sm_90; the 100
// kB of an sm_86 or sm_89 are for four of the plain kernels' with 16-bit
// weights.
template <class Bits, bool kSums>
constexpr unsigned kPlainBlocks = sizeof(Bits) == 2 && !kSums ? 6 : 4;
template <class Bits>
constexpr unsigned kGeneralBlocks = sizeof(Bits) == 2 ? 4 : 3;

// The type's own conversions, where the shared ones work with integers.
struct HardwareBFloat16 : BFloat16Weight {
  static __device__ __forceinline__ uint32_t RoundPair(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }
};

struct HardwareFloat16 : Float16Weight {
  static __device__ __forceinline__ float WidenLow(uint32_t pair) {
    return __half2float(__ushort_as_half(static_cast<Bits>(pair)));
  }
  static __device__ __forceinline__ float WidenHigh(uint32_t pair) {
    return __half2float(__ushort_as_half(static_cast<Bits>(pair >> 16)));
  }
  static __device__ __forceinline__ uint32_t RoundPair(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }
};

// One product of 16 x 16 and 16 x 8, in float32: d = a b + c.
__device__ __forceinline__ void MultiplyBFloat16(const uint32_t* a,
                                                 const uint32_t* b,
                                                 const float* c, float* d) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
        "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__device__ __forceinline__ void MultiplyFloat16(const uint32_t* a,
                                                const uint32_t* b,
                                                const float* c, float* d) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
        "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// What warp_delta.h and warp_launch.h want of a warp. A lane's value is a
// register; all lanes take part in every call.
struct DeviceWarp {
  template <class T>
  struct Lanes {
    T value;
    __device__ __forceinline__ T& operator[](int) { return value; }
    __device__ __forceinline__ const T& operator[](int) const { return value; }
  };

  static __device__ __forceinline__ int Lane() {
    return static_cast<int>(threadIdx.x) % kLanes;
  }

  template <class F>
  static __device__ __forceinline__ void Each(F&& f) {
    f(Lane());
  }

  // The device's memory, which the compiler cannot see of a pointer that lay in
  // it. Not __restrict__ or through the read-only cache: the live weights are
  // written in the same launch.
  static __device__ __forceinline__ void Load16(const void* from, void* to) {
    __builtin_assume(__isGlobal(from));
    const uint4 piece = *static_cast<const uint4*>(from);
    memcpy(to, &piece, sizeof(piece));
  }
  static __device__ __forceinline__ void Store16(const void* from, void* to) {
    uint4 piece;
    memcpy(&piece, from, sizeof(piece));
    __builtin_assume(__isGlobal(to));
    *static_cast<uint4*>(to) = piece;
  }
  static __device__ __forceinline__ void Prefetch(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
  }

  template <FactorFormat kFormat, bool kAdd>
  static __device__ __forceinline__ void Multiply(const Lanes<UpFragment>& a,
                                                  const Lanes<DownFragment>& b,
                                                  Lanes<ProductSums>& sums) {
    constexpr float kZeros[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t* const down = b.value.v + i * 2;
      float* const d = sums.value.v + i * 4;
      const float* const c = kAdd ? d : kZeros;
      if constexpr (kFormat == FactorFormat::kFloat16) {
        MultiplyFloat16(a.value.v, down, c, d);
      } else {
        MultiplyBFloat16(a.value.v, down, c, d);
      }
    }
  }

  static __device__ __forceinline__ void Sync() { __syncwarp(); }

  static __device__ __forceinline__ void CopyAsync16(const void* from,
                                                     void* to) {
    const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared),
                 "l"(from)
                 : "memory");
  }
  static __device__ __forceinline__ void WaitForCopies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
  }

  static __device__ __forceinline__ uint32_t CountLanes(const Lanes<bool>& x) {
    return static_cast<uint32_t>(__popc(__ballot_sync(kAllLanes, x.value)));
  }

  static __device__ __forceinline__ uint32_t ScanExclusive(Lanes<uint32_t>& x) {
    uint32_t sum = x.value;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      // The shuffle itself tells whether there is such a lane.
      asm volatile(
          "{.reg .u32 before; .reg .pred there;"
          "shfl.sync.up.b32 before|there, %0, %1, 0, 0xffffffff;"
          "@there add.u32 %0, %0, before;}"
          : "+r"(sum)
          : "r"(distance));
    }
    x.value = sum - x.value;
    return __shfl_sync(kAllLanes, sum, kLanes - 1);
  }

  static __device__ __forceinline__ uint64_t Sum(const Lanes<uint64_t>& x) {
    uint64_t sum = x.value;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    return sum;
  }

  static __device__ __forceinline__ uint32_t Claim(uint32_t* counter) {
    return atomicAdd(counter, 1u);
  }
  static __device__ __forceinline__ void Or(uint32_t* word, uint32_t bits) {
    atomicOr(word, bits);
  }

  template <class T>
  static __device__ __forceinline__ T Add(T* counter, T value) {
    T before = 0;
    if (Lane() == 0) before = atomicAdd(counter, value);
    return __shfl_sync(kAllLanes, before, 0);
  }
};

// Which warp of a launch this is.
__device__ __forceinline__ uint64_t WarpNumber() {
  return uint64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kLanes;
}

// The part of the block's memory that is this warp's.
template <class Scratch>
__device__ __forceinline__ Scratch& WarpMemory() {
  extern __shared__ uint4 memory[];
  return reinterpret_cast<Scratch*>(memory)[threadIdx.x / kLanes];
}

// One tile to each warp, in order: neighbours share factors in the caches.
template <class Weight, bool kSums>
__global__ void __launch_bounds__(kThreads,
                                  kPlainBlocks<typename Weight::Bits, kSums>)
    PlainKernel(const SwitchLaunch launch, WeightDtype dtype) {
  RunPlainTile<DeviceWarp, Weight, kSums>(
      launch, dtype, WarpNumber(),
      WarpMemory<PlainScratch<typename Weight::Bits>>());
}

// All tiles, or those that were listed; a warp takes another one when it has
// done with one.
template <class Weight>
__global__ void __launch_bounds__(kThreads,
                                  kGeneralBlocks<typename Weight::Bits>)
    SwitchKernel(const SwitchLaunch launch, WeightDtype dtype) {
  auto& scratch = WarpMemory<WarpScratch<typename Weight::Bits>>();
  const uint64_t count =
      launch.rest != nullptr ? launch.summary->num_rest : launch.num_tiles;
  for (uint64_t i = WarpNumber(); i < count;
       i += uint64_t{gridDim.x} * kWarpsPerBlock) {
    RunWarpTile<DeviceWarp, Weight>(
        launch, dtype, launch.rest != nullptr ? launch.rest[i] : i, scratch);
    DeviceWarp::Sync();  // all have done with the scratch
  }
}

// One step to each warp.
__global__ void __launch_bounds__(kThreads)
    SumTermsKernel(const DeltaTerm* terms, uint32_t count, int64_t rows,
                   int64_t cols, float* delta) {
  const auto number = static_cast<int64_t>(WarpNumber());
  const int64_t across = (cols + kStepCols - 1) / kStepCols;
  WarpStep step;
  if (number / across * kStepRows >= rows) return;
  step.row = static_cast<int>(number / across) * kStepRows;
  step.col = static_cast<int>(number % across) * kStepCols;
  step.rows = static_cast<int>(rows);
  step.cols = static_cast<int>(cols);
  DeviceWarp::Lanes<LaneDelta> d;
  TermSum<DeviceWarp> sum(terms, count);
  sum.Prefetch(step);
  sum.Compute(step, d);
  const int lane = DeviceWarp::Lane();
  const uint32_t valid = step.Valid(lane);
#pragma unroll
  for (int i = 0; i < kLaneElements; ++i) {
    if ((valid >> i & 1u) != 0) {
      delta[step.PlaceOf(lane, i)] = d.value.c * d.value.p[i];
    }
  }
}

unsigned NumBlocks(uint64_t warps) {
  return static_cast<unsigned>((warps + kWarpsPerBlock - 1) / kWarpsPerBlock);
}

template <class Kernel>
cudaError_t Launch(Kernel* kernel, unsigned blocks, size_t warp_bytes,
                   cudaStream_t stream, const SwitchLaunch& launch,
                   WeightDtype dtype) {
  const size_t bytes = kWarpsPerBlock * warp_bytes;
  // More than a kernel gets unasked.
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  kernel<<<blocks, kThreads, bytes, stream>>>(launch, dtype);
  return cudaGetLastError();
}

template <class Weight>
cudaError_t LaunchSwitch(int device, cudaStream_t stream,
                         const SwitchLaunch& launch, WeightDtype dtype) {
  using Bits = typename Weight::Bits;
  unsigned blocks = NumBlocks(launch.num_tiles);
  if (launch.rest != nullptr) {
    cudaError_t error = Launch(
        launch.sums ? PlainKernel<Weight, true> : PlainKernel<Weight, false>,
        blocks, sizeof(PlainScratch<Bits>), stream, launch, dtype);
    if (error != cudaSuccess) return error;
    // How many are left only the device knows: as many as it has room for.
    int processors = 0;
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount,
                                   device);
    if (error != cudaSuccess) return error;
    blocks = std::min(blocks,
                      static_cast<unsigned>(processors) * kGeneralBlocks<Bits>);
  }
  return Launch(SwitchKernel<Weight>, blocks, sizeof(WarpScratch<Bits>), stream,
                launch, dtype);
}

}  // namespace
}  // namespace graft

int GraftCudaSwitch(int device, void* stream, const graft::SwitchLaunch* launch,
                    graft::WeightDtype dtype) {
  if (launch->num_tiles == 0) return cudaSuccess;
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  auto* const on = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case graft::WeightDtype::kFloat32:
      return graft::LaunchSwitch<graft::Float32Weight>(device, on, *launch,
                                                       dtype);
    case graft::WeightDtype::kBFloat16:
      return graft::LaunchSwitch<graft::HardwareBFloat16>(device, on, *launch,
                                                          dtype);
    case graft::WeightDtype::kFloat16:
      return graft::LaunchSwitch<graft::HardwareFloat16>(device, on, *launch,
                                                         dtype);
  }
  return cudaErrorInvalidValue;
}

int GraftCudaSumTerms(int device, void* stream, const graft::DeltaTerm* terms,
                      uint32_t count, int64_t rows, int64_t cols,
                      float* delta) {
  if (rows == 0 || cols == 0) return cudaSuccess;
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  const int64_t steps = ((rows + graft::kStepRows - 1) / graft::kStepRows) *
                        ((cols + graft::kStepCols - 1) / graft::kStepCols);
  graft::
      SumTermsKernel<<<graft::NumBlocks(static_cast<uint64_t>(steps)),
                       graft::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          terms, count, rows, cols, delta);
  return cudaGetLastError();
}

int GraftCudaCheck(int device) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes,
                               graft::SwitchKernel<graft::HardwareFloat16>);
}

int GraftCudaDeviceName(int device, char* name, int size) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess) {
    std::snprintf(name, static_cast<size_t>(size), "%s", properties.name);
  }
  return error;
}

int GraftCudaMemory(int device, uint64_t* free, uint64_t* total) {
  cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  size_t free_bytes = 0, total_bytes = 0;
  error = cudaMemGetInfo(&free_bytes, &total_bytes);
  *free = free_bytes;
  *total = total_bytes;
  return error;
}

const char* GraftCudaErrorString(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
