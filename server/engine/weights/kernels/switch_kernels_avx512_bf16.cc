// For x86-64 processors with AVX512-BF16 too: bfloat16 factors are multiplied
// two ranks at a time, twice as fast. The sums are float32.

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/switch_rows_avx512.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {
namespace {

__m512bh AsBFloat16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

struct Avx512Bf16 : Avx512 {
  static void Product(FactorFormat format, int rank, const void* up,
                      const void* down, float coefficient, bool add, float* d) {
    if (format != FactorFormat::kBFloat16Pairs) {
      return Avx512::Product(format, rank, up, down, coefficient, add, d);
    }
    const auto* const up_pairs = static_cast<const int32_t*>(up);
    const auto* const down_pairs = static_cast<const int32_t*>(down);
    Accumulators accumulators;
    auto& sums = accumulators.sums;
    for (int k = 0; k < rank / 2; ++k) {
      const __m512bh left =
          AsBFloat16(_mm512_loadu_si512(down_pairs + k * kBlockCols));
      const __m512bh right =
          AsBFloat16(_mm512_loadu_si512(down_pairs + k * kBlockCols + 16));
#pragma GCC unroll 8
      for (int i = 0; i < kBlockRows; ++i) {
        const __m512bh factor =
            AsBFloat16(_mm512_set1_epi32(up_pairs[k * kBlockRows + i]));
        sums[i][0] = _mm512_dpbf16_ps(sums[i][0], factor, left);
        sums[i][1] = _mm512_dpbf16_ps(sums[i][1], factor, right);
      }
    }
    accumulators.Store(coefficient, add, d);
  }
};

}  // namespace

const SwitchKernels kAvx512Bf16SwitchKernels =
    MakeSwitchKernels<Avx512Bf16>("avx512_bf16", /*bfloat16_pairs=*/true);

}  // namespace graft
