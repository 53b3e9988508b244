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
//   Multiply<format, add>(a, b, sums)
//                            sums += a * b, or = a * b, four products: 16 x 16
//                            times 16 x 32, in float32
#ifdef __CUDACC__
#define GRAFT_WARP __device__ __forceinline__
#define GRAFT_WARP_RARE __device__ __noinline__
#else
#define GRAFT_WARP inline
#define GRAFT_WARP_RARE inline
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

// D of a lane's elements: c * p. It is not multiplied out: adding it to a
// weight of 16 bits is one fused operation. Of one term c is the coefficient,
// else 1.
struct LaneDelta {
  float c;
  float p[kLaneElements];
};

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

// The two factors of a product, as one lane's registers.
struct FactorView {
  const uint16_t* up = nullptr;
  const uint16_t* down = nullptr;
  uint32_t rank_steps = 0;  // of sixteen ranks, at least one
  FactorFormat format = FactorFormat::kBFloat16;

  FactorView() = default;
  GRAFT_WARP explicit FactorView(const LowRankFactors& factors)
      : up(static_cast<const uint16_t*>(factors.up)),
        down(static_cast<const uint16_t*>(factors.down)),
        rank_steps(static_cast<uint32_t>(factors.rank) / 16),
        format(factors.format) {}

  // Where a step's fragments begin.
  GRAFT_WARP FactorView At(const WarpStep& step) const {
    const uint32_t row = static_cast<uint32_t>(step.row) / kStepRows;
    const uint32_t col = static_cast<uint32_t>(step.col) / kStepCols;
    FactorView view = *this;
    view.up += uint64_t{row * rank_steps} * (kLanes * 8);
    view.down += uint64_t{col * rank_steps} * (2 * kLanes * 8);
    return view;
  }
};

// What a lane has of sixteen ranks.
template <class Warp>
struct Fragments {
  typename Warp::template Lanes<UpFragment> up;
  typename Warp::template Lanes<DownFragment> down;

  // Those that `view` begins with.
  GRAFT_WARP void Load(const FactorView& view) {
    Warp::Each([&](int lane) {
      Load(lane, view.up + lane * 8, view.down + lane * 8);
    });
  }

  // One lane's, from where they begin.
  GRAFT_WARP void Load(int lane, const uint16_t* from_up,
                       const uint16_t* from_down) {
    Warp::Load16(from_up, up[lane].v);
    Warp::Load16(from_down, down[lane].v);
    Warp::Load16(from_down + kLanes * 8, down[lane].v + 4);
  }
};

// The product of one step, `view` being where its fragments begin and `first`
// the first of them. Ranks in ascending order, and nothing shared between
// warps, so the bits are the same whenever it is computed.
template <class Warp, FactorFormat kFormat>
GRAFT_WARP void MultiplyFragments(
    FactorView view, Fragments<Warp>& first,
    typename Warp::template Lanes<ProductSums>& p) {
  Warp::template Multiply<kFormat, /*kAdd=*/false>(first.up, first.down, p);
#pragma unroll 1  // registers are what a warp has least of
  for (uint32_t k = 1; k < view.rank_steps; ++k) {
    view.up += kLanes * 8;
    view.down += 2 * kLanes * 8;
    first.Load(view);
    Warp::template Multiply<kFormat, /*kAdd=*/true>(first.up, first.down, p);
  }
}

template <class Warp>
GRAFT_WARP void MultiplyFactors(const FactorView& view, Fragments<Warp>& first,
                                typename Warp::template Lanes<ProductSums>& p) {
  if (view.format == FactorFormat::kFloat16) {
    MultiplyFragments<Warp, FactorFormat::kFloat16>(view, first, p);
  } else {
    MultiplyFragments<Warp, FactorFormat::kBFloat16>(view, first, p);
  }
}

template <class Warp>
GRAFT_WARP void MultiplyFactors(const LowRankFactors& factors,
                                const WarpStep& step,
                                typename Warp::template Lanes<ProductSums>& p) {
  const FactorView view = FactorView(factors).At(step);
  Fragments<Warp> first;
  first.Load(view);
  MultiplyFactors<Warp>(view, first, p);
}

// Element pair i / 2 of a row is what product i / 2 has of it.
GRAFT_WARP constexpr int PlaceInSums(int element) {
  return element % 8 / 2 * 4 + element / 8 * 2 + element % 2;
}

GRAFT_WARP LaneDelta FromSums(float coefficient, const ProductSums& sums) {
  LaneDelta delta;
  delta.c = coefficient;
#pragma unroll
  for (int i = 0; i < kLaneElements; ++i) delta.p[i] = sums.v[PlaceInSums(i)];
  return delta;
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

// P of one step of the kinds that are rare, laid out as the sums of a product.
// Not inlined: in the place of each call it would take registers from what is
// not rare.
template <class Warp>
GRAFT_WARP_RARE typename Warp::template Lanes<ProductSums> MultiplyRare(
    const DeltaTerm& term, WarpStep step) {
  typename Warp::template Lanes<ProductSums> p;
  if (term.kind == DeltaTerm::Kind::kHadamard) {
    typename Warp::template Lanes<ProductSums> second;
    MultiplyFactors<Warp>(term.first, step, p);
    MultiplyFactors<Warp>(term.second, step, second);
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) p[lane].v[i] *= second[lane].v[i];
    });
  } else {
    Warp::Each([&](int lane) {
      const uint32_t valid = step.Valid(lane);
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        p[lane].v[PlaceInSums(i)] =
            (valid >> i & 1u) != 0 ? ElementOf(term, step, lane, i) : 0.0F;
      }
    });
  }
  return p;
}

GRAFT_WARP bool IsLowRank(const DeltaTerm& term) {
  return term.kind == DeltaTerm::Kind::kLowRank;
}

// Adds to D of one step what the terms behind the first bring: coefficients in
// float32, each with one fused operation, as on the CPU. `kProducts`: all of
// them are products.
template <class Warp, bool kProducts>
GRAFT_WARP void AddTerms(const DeltaTerm* terms, uint32_t count,
                         const WarpStep& step,
                         typename Warp::template Lanes<LaneDelta>& d) {
  if (count < 2) return;
  Warp::Each([&](int lane) {
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) d[lane].p[i] *= d[lane].c;
    d[lane].c = 1;
  });
#pragma unroll 1
  for (uint32_t n = 1; n < count; ++n) {
    typename Warp::template Lanes<ProductSums> p;
    if (kProducts || IsLowRank(terms[n])) {
      MultiplyFactors<Warp>(terms[n].first, step, p);
    } else {
      p = MultiplyRare<Warp>(terms[n], step);
    }
    const float coefficient = terms[n].coefficient;
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        d[lane].p[i] =
            fmaf(coefficient, p[lane].v[PlaceInSums(i)], d[lane].p[i]);
      }
    });
  }
}

// D of one step, of terms of any kind. In two parts: what memory has to bring
// for the first term is asked for before there is need of it.
template <class Warp>
class TermSum {
 public:
  using Delta = typename Warp::template Lanes<LaneDelta>;

  GRAFT_WARP TermSum(const DeltaTerm* terms, uint32_t count)
      : terms_(terms), count_(count) {}

  GRAFT_WARP uint32_t count() const { return count_; }

  GRAFT_WARP void Prefetch(const WarpStep& step) {
    if (count_ > 0 && IsLowRank(terms_[0])) {
      first_.Load(FactorView(terms_[0].first).At(step));
    }
  }

  // REQUIRES: count() > 0, and Prefetch(step) was called.
  GRAFT_WARP void Compute(const WarpStep& step, Delta& d) {
    typename Warp::template Lanes<ProductSums> p;
    if (IsLowRank(terms_[0])) {
      MultiplyFactors<Warp>(FactorView(terms_[0].first).At(step), first_, p);
    } else {
      p = MultiplyRare<Warp>(terms_[0], step);
    }
    const float first = terms_[0].coefficient;
    Warp::Each([&](int lane) { d[lane] = FromSums(first, p[lane]); });
    AddTerms<Warp, /*kProducts=*/false>(terms_, count_, step, d);
  }

 private:
  const DeltaTerm* const terms_;
  const uint32_t count_;
  Fragments<Warp> first_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_DELTA_H_
