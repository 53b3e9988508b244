#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_DELTA_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_DELTA_H_

#include <cmath>
#include <cstdint>

#include "server/engine/cuda/switch_launch.h"
#include "server/engine/weights/kernels/weight_bits.h"

// D as the registers of one warp hold it. A C++ compiler takes this header too:
// `Warp` supplies what only hardware has, or, in a test, a loop over 32 lanes.
//
//   Lanes<T>                 a T of each lane, [lane]
//   Each(f)                  f(lane) on each lane
//   Load16(from, to)         16 bytes, aligned, from the device's memory
//   Multiply(format, a, b, sums)
//                            sums += a * b, four products: 16 x 16 times
//                            16 x 32, in float32
#ifdef __CUDACC__
#define GRAFT_WARP __device__ __forceinline__
#else
#define GRAFT_WARP inline
#endif

namespace graft {

inline constexpr int kLanes = 32;

// A warp works in steps of 16 x 32 weights, of which a lane has 16: eight
// neighbours in row lane / 4, from column lane % 4 * 8 on, and in the row eight
// further down.
inline constexpr int kStepRows = 16;
inline constexpr int kStepCols = 32;
inline constexpr int kStepElements = kStepRows * kStepCols;
inline constexpr int kLaneElements = kStepElements / kLanes;

template <class T>
struct LaneElements {
  T v[kLaneElements];
};

// Element `i`, where that is no constant: registers cannot be indexed. For what
// is rare, in loops that are not unrolled.
template <class T>
GRAFT_WARP void SetElement(int i, T value, T* elements) {
#pragma unroll
  for (int j = 0; j < kLaneElements; ++j) {
    if (j == i) elements[j] = value;
  }
}
template <class T>
GRAFT_WARP T GetElement(int i, const T* elements) {
  T value = elements[0];
#pragma unroll
  for (int j = 1; j < kLaneElements; ++j) {
    if (j == i) value = elements[j];
  }
  return value;
}

struct UpFragment {
  uint32_t v[4];
};
struct DownFragment {
  uint32_t v[8];  // two of each product
};
struct ProductSums {
  float v[kLaneElements];  // four of each product
};

// Where a step lies, and where the parameter ends.
struct WarpStep {
  int row = 0;
  int col = 0;
  int rows = 0;  // of the parameter
  int cols = 0;

  GRAFT_WARP int RowOf(int lane, int element) const {
    return row + lane / 4 + element / 8 * 8;
  }
  GRAFT_WARP int ColOf(int lane, int element) const {
    return col + lane % 4 * 8 + element % 8;
  }
  // In the parameter, row by row.
  GRAFT_WARP int64_t PlaceOf(int lane, int element) const {
    return static_cast<int64_t>(RowOf(lane, element)) * cols +
           ColOf(lane, element);
  }
  GRAFT_WARP bool whole() const {
    return row + kStepRows <= rows && col + kStepCols <= cols;
  }
  // Which of a lane's elements lie in the parameter, one bit each.
  GRAFT_WARP uint32_t Valid(int lane) const {
    const int left = cols - ColOf(lane, 0);
    const uint32_t in_row = left >= 8  ? 0xffu
                            : left > 0 ? (1u << left) - 1
                                       : 0u;
    return (RowOf(lane, 0) < rows ? in_row : 0u) |
           (RowOf(lane, 8) < rows ? in_row << 8 : 0u);
  }
};

// The product of one step: ranks in ascending order, nothing shared between
// warps, so the bits are the same whenever it is computed.
template <class Warp>
GRAFT_WARP void MultiplyFactors(const LowRankFactors& factors,
                                const WarpStep& step,
                                typename Warp::template Lanes<ProductSums>& p) {
  const int rank_steps = factors.rank / 16;
  const auto* up = static_cast<const uint16_t*>(factors.up) +
                   int64_t{step.row / kStepRows} * rank_steps * (kLanes * 8);
  const auto* down =
      static_cast<const uint16_t*>(factors.down) +
      int64_t{step.col / kStepCols} * rank_steps * (2 * kLanes * 8);
  typename Warp::template Lanes<UpFragment> a;
  typename Warp::template Lanes<DownFragment> b;
  Warp::Each([&](int lane) {
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) p[lane].v[i] = 0;
  });
#pragma unroll 1  // registers are what a warp has least of
  for (int k = 0; k < rank_steps; ++k) {
    Warp::Each([&](int lane) {
      Warp::Load16(up + lane * 8, a[lane].v);
      Warp::Load16(down + lane * 8, b[lane].v);
      Warp::Load16(down + (kLanes + lane) * 8, b[lane].v + 4);
    });
    Warp::Multiply(factors.format, a, b, p);
    up += kLanes * 8;
    down += 2 * kLanes * 8;
  }
}

// Element pair i / 2 of a row is what product i / 2 has of it.
GRAFT_WARP constexpr int PlaceInSums(int element) {
  return element % 8 / 2 * 4 + element / 8 * 2 + element % 2;
}

GRAFT_WARP float WidenFactor(FactorFormat format, const void* data, int64_t i) {
  if (format == FactorFormat::kFloat32) {
    return static_cast<const float*>(data)[i];
  }
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return format == FactorFormat::kFloat16 ? Float16Weight::Widen(bits)
                                          : BFloat16Weight::Widen(bits);
}

// One element of P of the kinds that are no products of matrices.
GRAFT_WARP float ElementOf(const DeltaTerm& term, const WarpStep& step,
                           int lane, int element) {
  if (term.kind == DeltaTerm::Kind::kDense) {
    return WidenFactor(term.dense_format, term.dense,
                       step.PlaceOf(lane, element));
  }
  const int row = step.RowOf(lane, element);
  const int col = step.ColOf(lane, element);
  const int w2_rows = static_cast<int>(term.w2_rows);
  const int w2_cols = static_cast<int>(term.w2_cols);
  const int64_t in_w1 =
      int64_t{row / w2_rows} * (step.cols / w2_cols) + col / w2_cols;
  const int64_t in_w2 = int64_t{row % w2_rows} * w2_cols + col % w2_cols;
  return term.w1[in_w1] * term.w2[in_w2];
}

// D of one step: coefficients in float32, each with one fused operation, as on
// the CPU.
template <class Warp>
GRAFT_WARP void SumTerms(
    const DeltaTerm* terms, uint32_t count, const WarpStep& step,
    typename Warp::template Lanes<LaneElements<float>>& d) {
  typename Warp::template Lanes<LaneElements<float>> p;
  for (uint32_t n = 0; n < count; ++n) {
    const DeltaTerm& term = terms[n];
    const bool hadamard = term.kind == DeltaTerm::Kind::kHadamard;
    if (hadamard || term.kind == DeltaTerm::Kind::kLowRank) {
      for (int side = 0; side < (hadamard ? 2 : 1); ++side) {
        typename Warp::template Lanes<ProductSums> sums;
        MultiplyFactors<Warp>(side == 0 ? term.first : term.second, step, sums);
        Warp::Each([&](int lane) {
#pragma unroll
          for (int i = 0; i < kLaneElements; ++i) {
            const float value = sums[lane].v[PlaceInSums(i)];
            p[lane].v[i] = side == 0 ? value : p[lane].v[i] * value;
          }
        });
      }
    } else {
      Warp::Each([&](int lane) {
        const uint32_t valid = step.Valid(lane);
#pragma unroll 1
        for (int i = 0; i < kLaneElements; ++i) {
          SetElement(
              i, (valid >> i & 1u) != 0 ? ElementOf(term, step, lane, i) : 0.0F,
              p[lane].v);
        }
      });
    }
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        d[lane].v[i] = n == 0
                           ? term.coefficient * p[lane].v[i]
                           : fmaf(term.coefficient, p[lane].v[i], d[lane].v[i]);
      }
    });
  }
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_DELTA_H_
