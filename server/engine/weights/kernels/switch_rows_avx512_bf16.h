#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_ROWS_AVX512_BF16_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_ROWS_AVX512_BF16_H_

#include <immintrin.h>

#include <cstdint>

#include "server/engine/weights/kernels/switch_rows_avx512.h"

// AVX512-BF16 too: bfloat16 factors are multiplied two ranks at a time. The
// sums are float32.
namespace graft {
namespace {

inline __m512bh AsBFloat16(__m512i bits) {
  return reinterpret_cast<__m512bh>(bits);
}

GRAFT_INLINE Sums PairProduct(int rank, const void* up, const void* down) {
  const auto* const up_pairs = static_cast<const int32_t*>(up);
  const auto* const down_pairs = static_cast<const int32_t*>(down);
  Sums sums;
  for (int k = 0; k < rank / 2; ++k) {
    const __m512bh left =
        AsBFloat16(_mm512_loadu_si512(down_pairs + k * kBlockCols));
    const __m512bh right =
        AsBFloat16(_mm512_loadu_si512(down_pairs + k * kBlockCols + 16));
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
      const __m512bh factor =
          AsBFloat16(_mm512_set1_epi32(up_pairs[k * kBlockRows + i]));
      sums.values[i][0] = _mm512_dpbf16_ps(sums.values[i][0], factor, left);
      sums.values[i][1] = _mm512_dpbf16_ps(sums.values[i][1], factor, right);
    }
  }
  return sums;
}

struct Avx512Bf16 : Avx512 {
  template <class Use>
  static GRAFT_INLINE void WithProduct(FactorFormat format, int rank,
                                       const void* up, const void* down,
                                       Use use) {
    if (format == FactorFormat::kBFloat16Pairs) {
      Sums sums = PairProduct(rank, up, down);
      return use(sums);
    }
    Avx512::WithProduct(format, rank, up, down, use);
  }
};

}  // namespace
}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_ROWS_AVX512_BF16_H_
