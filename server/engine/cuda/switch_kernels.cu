#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "server/engine/cuda/switch_kernels_cuda.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/cuda/warp_tile.h"

namespace graft {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr int kThreads = kWarpsPerBlock * kLanes;
// So that a thread gets 168 registers, with which hardly anything is spilled,
// and a processor has 12 warps, which hide the latency of memory.
constexpr int kBlocksPerProcessor = 3;
constexpr unsigned kAllLanes = 0xffffffffu;

// The type's own conversions, where the shared ones work with integers.
struct HardwareBFloat16 : BFloat16Weight {
  static __device__ __forceinline__ Bits Round(float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
};

struct HardwareFloat16 : Float16Weight {
  static __device__ __forceinline__ float Widen(Bits bits) {
    return __half2float(__ushort_as_half(bits));
  }
  static __device__ __forceinline__ Bits Round(float value) {
    return __half_as_ushort(__float2half_rn(value));
  }
};

// One product of 16 x 16 and 16 x 8, in float32.
__device__ __forceinline__ void MultiplyBFloat16(const uint32_t* a,
                                                 const uint32_t* b, float* c) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void MultiplyFloat16(const uint32_t* a,
                                                const uint32_t* b, float* c) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// What warp_delta.h and warp_tile.h want of a warp. A lane's value is a
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

  // Not __restrict__ or through the read-only cache: the live weights are
  // written in the same launch.
  static __device__ __forceinline__ void Load16(const void* from, void* to) {
    const uint4 piece = *static_cast<const uint4*>(from);
    memcpy(to, &piece, sizeof(piece));
  }
  static __device__ __forceinline__ void Store16(const void* from, void* to) {
    uint4 piece;
    memcpy(&piece, from, sizeof(piece));
    *static_cast<uint4*>(to) = piece;
  }
  static __device__ __forceinline__ void Prefetch(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
  }

  static __device__ __forceinline__ void Multiply(FactorFormat format,
                                                  const Lanes<UpFragment>& a,
                                                  const Lanes<DownFragment>& b,
                                                  Lanes<ProductSums>& sums) {
#pragma unroll
    for (int product = 0; product < 4; ++product) {
      const uint32_t* const down = b.value.v + product * 2;
      float* const c = sums.value.v + product * 4;
      if (format == FactorFormat::kFloat16) {
        MultiplyFloat16(a.value.v, down, c);
      } else {
        MultiplyBFloat16(a.value.v, down, c);
      }
    }
  }

  static __device__ __forceinline__ void Sync() { __syncwarp(); }

  static __device__ __forceinline__ uint32_t CountBits(uint32_t mask) {
    return static_cast<uint32_t>(__popc(mask));
  }

  static __device__ __forceinline__ uint32_t ScanExclusive(Lanes<uint32_t>& x) {
    uint32_t sum = x.value;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      const uint32_t before = __shfl_up_sync(kAllLanes, sum, distance);
      if (Lane() >= distance) sum += before;
    }
    x.value = sum - x.value;
    return __shfl_sync(kAllLanes, sum, kLanes - 1);
  }

  static __device__ __forceinline__ void SumOverRows(Lanes<uint32_t>& x) {
#pragma unroll
    for (int distance = 4; distance < kLanes; distance *= 2) {
      x.value += __shfl_xor_sync(kAllLanes, x.value, distance);
    }
  }

  static __device__ __forceinline__ uint64_t Sum(const Lanes<uint64_t>& x) {
    uint64_t sum = x.value;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    return sum;
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

// One tile to each warp, in order: neighbours share factors in the caches.
template <class Weight>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    SwitchKernel(const SwitchLaunch launch, WeightDtype dtype) {
  __shared__ WarpScratch<typename Weight::Bits> scratch[kWarpsPerBlock];
  const unsigned warp = threadIdx.x / kLanes;
  RunWarpTile<DeviceWarp, Weight>(launch, dtype,
                                  uint64_t{blockIdx.x} * kWarpsPerBlock + warp,
                                  scratch[warp]);
}

// One step to each warp.
__global__ void __launch_bounds__(kThreads)
    SumTermsKernel(const DeltaTerm* terms, uint32_t count, int64_t rows,
                   int64_t cols, float* delta) {
  const int64_t number =
      int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kLanes;
  const int64_t across = (cols + kStepCols - 1) / kStepCols;
  WarpStep step;
  if (number / across * kStepRows >= rows) return;
  step.row = static_cast<int>(number / across) * kStepRows;
  step.col = static_cast<int>(number % across) * kStepCols;
  step.rows = static_cast<int>(rows);
  step.cols = static_cast<int>(cols);
  DeviceWarp::Lanes<LaneElements<float>> d;
  SumTerms<DeviceWarp>(terms, count, step, d);
  const int lane = DeviceWarp::Lane();
  const uint32_t valid = step.Valid(lane);
#pragma unroll
  for (int i = 0; i < kLaneElements; ++i) {
    if ((valid >> i & 1u) != 0) {
      delta[step.PlaceOf(lane, i)] = d.value.v[i];
    }
  }
}

// The device as the thread's current one, for a while.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&former_);
    if (error_ == cudaSuccess && former_ != device) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(former_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int former_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

unsigned NumBlocks(uint64_t warps) {
  return static_cast<unsigned>((warps + kWarpsPerBlock - 1) / kWarpsPerBlock);
}

}  // namespace
}  // namespace graft

int GraftCudaSwitch(int device, void* stream, const graft::SwitchLaunch* launch,
                    graft::WeightDtype dtype) {
  if (launch->num_tiles == 0) return cudaSuccess;
  const graft::DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return guard.error();
  const unsigned blocks = graft::NumBlocks(launch->num_tiles);
  auto* const on = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case graft::WeightDtype::kFloat32:
      graft::SwitchKernel<graft::Float32Weight>
          <<<blocks, graft::kThreads, 0, on>>>(*launch, dtype);
      break;
    case graft::WeightDtype::kBFloat16:
      graft::SwitchKernel<graft::HardwareBFloat16>
          <<<blocks, graft::kThreads, 0, on>>>(*launch, dtype);
      break;
    case graft::WeightDtype::kFloat16:
      graft::SwitchKernel<graft::HardwareFloat16>
          <<<blocks, graft::kThreads, 0, on>>>(*launch, dtype);
      break;
  }
  return cudaGetLastError();
}

int GraftCudaSumTerms(int device, void* stream, const graft::DeltaTerm* terms,
                      uint32_t count, int64_t rows, int64_t cols,
                      float* delta) {
  if (rows == 0 || cols == 0) return cudaSuccess;
  const graft::DeviceGuard guard(device);
  if (guard.error() != cudaSuccess) return guard.error();
  const int64_t steps = ((rows + graft::kStepRows - 1) / graft::kStepRows) *
                        ((cols + graft::kStepCols - 1) / graft::kStepCols);
  graft::
      SumTermsKernel<<<graft::NumBlocks(static_cast<uint64_t>(steps)),
                       graft::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          terms, count, rows, cols, delta);
  return cudaGetLastError();
}

const char* GraftCudaErrorString(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
