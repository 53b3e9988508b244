// For x86-64 processors with AVX2, FMA and F16C: the compiler vectorises the
// portable loops; products and float16 conversions are written by hand.

#include <immintrin.h>

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/scalar_rows.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {
namespace {

template <class Weight>
struct Convert : ScalarConvert<Weight> {};

template <>
struct Convert<Float16Weight> {
  static void Widen(const uint16_t* bits, float* values) {
    for (int i = 0; i < kBlockCols; i += 8) {
      _mm256_storeu_ps(values + i,
                       _mm256_cvtph_ps(_mm_loadu_si128(
                           reinterpret_cast<const __m128i*>(bits + i))));
    }
  }
  static void Round(const float* values, uint16_t* bits) {
    for (int i = 0; i < kBlockCols; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bits + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(values + i),
                                       _MM_FROUND_TO_NEAREST_INT));
    }
  }
};

__m256 LoadFactor(FactorFormat format, const void* data, int64_t i) {
  if (format == FactorFormat::kFloat32) {
    return _mm256_loadu_ps(static_cast<const float*>(data) + i);
  }
  const __m128i bits = _mm_loadu_si128(
      reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(data) + i));
  if (format == FactorFormat::kFloat16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

struct Avx2 : ScalarRows<Convert> {
  template <class Use>
  static void WithProduct(FactorFormat format, int rank, const void* up,
                          const void* down, Use use) {
    const auto* const up_values = static_cast<const float*>(up);
    StoredSums stored;
    // 4 x 16 at a time: 8 accumulators of the 16 registers.
    for (int i0 = 0; i0 < kBlockRows; i0 += 4) {
      for (int j0 = 0; j0 < kBlockCols; j0 += 16) {
        __m256 sums[4][2];
        for (auto& row : sums) row[0] = row[1] = _mm256_setzero_ps();
        for (int k = 0; k < rank; ++k) {
          const int64_t at = int64_t{k} * kBlockCols + j0;
          const __m256 left = LoadFactor(format, down, at);
          const __m256 right = LoadFactor(format, down, at + 8);
          for (int i = 0; i < 4; ++i) {
            const __m256 factor =
                _mm256_broadcast_ss(up_values + k * kBlockRows + i0 + i);
            sums[i][0] = _mm256_fmadd_ps(factor, left, sums[i][0]);
            sums[i][1] = _mm256_fmadd_ps(factor, right, sums[i][1]);
          }
        }
        for (int i = 0; i < 4; ++i) {
          float* const to = stored.values + (i0 + i) * kBlockCols + j0;
          _mm256_store_ps(to, sums[i][0]);
          _mm256_store_ps(to + 8, sums[i][1]);
        }
      }
    }
    use(stored);
  }
};

}  // namespace

const SwitchKernels kAvx2SwitchKernels =
    MakeSwitchKernels<Avx2>("avx2", FactorFormat::kBFloat16);

}  // namespace graft
