#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_ROWS_AVX512_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_ROWS_AVX512_H_

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "server/engine/weights/kernels/switch_tile_impl.h"

// Rows and products for AVX-512 with F, BW, DQ, VL and VBMI2. Codes are spread
// and gathered by VBMI2's expand and compress, in registers: their forms that
// write to memory are slow on some processors.
namespace graft {
namespace {

// 32 floats.
struct Floats {
  __m512 low;
  __m512 high;
};

GRAFT_INLINE Floats LoadFloats(const float* values) {
  return {_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16)};
}

// c * p.
struct ScaledFloats {
  __m512 c;
  Floats p;
};

GRAFT_INLINE Floats operator+(Floats a, const ScaledFloats& d) {
  return {_mm512_fmadd_ps(d.c, d.p.low, a.low),
          _mm512_fmadd_ps(d.c, d.p.high, a.high)};
}
GRAFT_INLINE Floats operator-(Floats a, const ScaledFloats& d) {
  return {_mm512_fnmadd_ps(d.c, d.p.low, a.low),
          _mm512_fnmadd_ps(d.c, d.p.high, a.high)};
}

// 32 weights of 16 bit, between one register and two of floats. Rounded is what
// a rounding knows: the floats come out of it without another conversion.
template <class Weight>
struct HalfConvert;

template <>
struct HalfConvert<BFloat16Weight> {
  static GRAFT_INLINE __m512 WidenHalf(__m256i bits) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }

  struct Rounded {
    __m512i low;  // the weight in the upper half of each element
    __m512i high;

    explicit GRAFT_INLINE Rounded(Floats values)
        : low(RoundHalf(values.low)), high(RoundHalf(values.high)) {}

    GRAFT_INLINE __m512i Bits() const {
      const __m512i odd_words = _mm512_set_epi16(
          63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31,
          29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
      return _mm512_permutex2var_epi16(low, odd_words, high);
    }
    GRAFT_INLINE Floats Values() const {
      const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
      return {_mm512_castsi512_ps(_mm512_and_si512(low, upper)),
              _mm512_castsi512_ps(_mm512_and_si512(high, upper))};
    }

   private:
    static GRAFT_INLINE __m512i RoundHalf(__m512 values) {
      const __m512i bits = _mm512_castps_si512(values);
      const __m512i odd =
          _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
      return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)),
                              odd);
    }
  };
};

template <>
struct HalfConvert<Float16Weight> {
  static GRAFT_INLINE __m512 WidenHalf(__m256i bits) {
    return _mm512_cvtph_ps(bits);
  }

  struct Rounded {
    __m256i low;
    __m256i high;

    explicit GRAFT_INLINE Rounded(Floats values)
        : low(RoundHalf(values.low)), high(RoundHalf(values.high)) {}

    GRAFT_INLINE __m512i Bits() const {
      return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    GRAFT_INLINE Floats Values() const {
      return {_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)};
    }

   private:
    static GRAFT_INLINE __m256i RoundHalf(__m512 values) {
      return _mm512_cvtps_ph(values,
                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
  };
};

template <class Weight>
GRAFT_INLINE Floats WidenRow(const uint16_t* bits) {
  using Convert = HalfConvert<Weight>;
  return {Convert::WidenHalf(
              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits))),
          Convert::WidenHalf(
              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits + 16)))};
}

template <class Weight>
GRAFT_INLINE __mmask32 HalfCandidates(__m512i m, __m512i r) {
  return _mm512_cmpge_epu16_mask(
      _mm512_and_si512(m, _mm512_set1_epi16(Weight::kExponent)),
      _mm512_and_si512(r, _mm512_set1_epi16(Weight::kMagnitude)));
}

template <class Weight>
GRAFT_INLINE void RestoreHalfRow(const uint16_t* merged, const ScaledFloats& d,
                                 uint32_t valid, const int8_t*& codes,
                                 uint16_t* w0) {
  using Rounded = typename HalfConvert<Weight>::Rounded;
  const __m512i m = _mm512_loadu_si512(merged);
  const __m512i r = Rounded(WidenRow<Weight>(merged) - d).Bits();
  const __mmask32 candidates = HalfCandidates<Weight>(m, r) & valid;
  const __m256i spread = _mm256_maskz_expand_epi8(
      candidates, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  codes += __builtin_popcount(candidates);
  _mm512_storeu_si512(w0, _mm512_add_epi16(r, _mm512_cvtepi8_epi16(spread)));
}

template <class Weight>
GRAFT_INLINE int MergeHalfRow(const uint16_t* pristine, const ScaledFloats& d,
                              uint32_t valid, uint16_t* merged, int8_t* codes,
                              uint32_t& exceptions) {
  using Rounded = typename HalfConvert<Weight>::Rounded;
  const __m512i w0 = _mm512_loadu_si512(pristine);
  const Rounded sum(WidenRow<Weight>(pristine) + d);
  const __m512i m = sum.Bits();
  const __m512i r = Rounded(sum.Values() - d).Bits();
  const __mmask32 candidates = HalfCandidates<Weight>(m, r) & valid;
  const __m512i difference = _mm512_sub_epi16(w0, r);
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(codes),
      _mm256_maskz_compress_epi8(candidates, _mm512_cvtepi16_epi8(difference)));
  exceptions =
      _mm512_mask_test_epi16_mask(~candidates & valid, difference, difference) |
      _mm512_mask_cmpgt_epu16_mask(
          candidates, _mm512_add_epi16(difference, _mm512_set1_epi16(kMaxCode)),
          _mm512_set1_epi16(2 * kMaxCode));
  _mm512_storeu_si512(merged, m);
  return __builtin_popcount(candidates);
}

// ---- float32: two registers of 16 -------------------------------------------

GRAFT_INLINE __mmask16 FloatCandidates(__m512 m, __m512 d, __m512 r) {
  const __m512i exponent = _mm512_set1_epi32(Float32Weight::kExponent);
  const __m512i r_bits = _mm512_castps_si512(r);
  const __mmask16 larger = _mm512_cmpge_epu32_mask(
      _mm512_and_si512(_mm512_castps_si512(m), exponent),
      _mm512_and_si512(r_bits, _mm512_set1_epi32(Float32Weight::kMagnitude)));
  // As IsTie().
  const __m512 back = _mm512_sub_ps(r, m);
  const __m512 error = _mm512_add_ps(d, back);
  const __m512 half_spacing =
      _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(r_bits, exponent)),
                    _mm512_set1_ps(5.9604644775390625e-08f));
  const __mmask16 tie =
      _mm512_cmp_ps_mask(_mm512_abs_ps(error), half_spacing, _CMP_EQ_OQ);
  return larger | tie;
}

GRAFT_INLINE void RestoreFloats(const uint32_t* merged, __m512 d,
                                __mmask16 valid, const int8_t*& codes,
                                uint32_t* w0) {
  const __m512 m = _mm512_loadu_ps(merged);
  const __m512 r = _mm512_sub_ps(m, d);
  const __mmask16 candidates = FloatCandidates(m, d, r) & valid;
  const __m128i spread = _mm_maskz_expand_epi8(
      candidates, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  codes += __builtin_popcount(candidates);
  _mm512_storeu_si512(w0, _mm512_add_epi32(_mm512_castps_si512(r),
                                           _mm512_cvtepi8_epi32(spread)));
}

GRAFT_INLINE int MergeFloats(const uint32_t* pristine, __m512 d,
                             __mmask16 valid, uint32_t* merged, int8_t* codes,
                             __mmask16& exceptions) {
  const __m512 w0 = _mm512_loadu_ps(pristine);
  const __m512 m = _mm512_add_ps(w0, d);
  const __m512 r = _mm512_sub_ps(m, d);
  const __mmask16 candidates = FloatCandidates(m, d, r) & valid;
  const __m512i difference =
      _mm512_sub_epi32(_mm512_castps_si512(w0), _mm512_castps_si512(r));
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(codes),
      _mm_maskz_compress_epi8(candidates, _mm512_cvtepi32_epi8(difference)));
  exceptions =
      _mm512_mask_test_epi32_mask(~candidates & valid, difference, difference) |
      _mm512_mask_cmpgt_epu32_mask(
          candidates, _mm512_add_epi32(difference, _mm512_set1_epi32(kMaxCode)),
          _mm512_set1_epi32(2 * kMaxCode));
  _mm512_storeu_ps(merged, m);
  return __builtin_popcount(candidates);
}

// ---- Products ---------------------------------------------------------------

// A block of 8 x 32 in 16 registers.
struct Sums {
  __m512 values[kBlockRows][2];

  GRAFT_INLINE Sums() {
    for (auto& row : values) row[0] = row[1] = _mm512_setzero_ps();
  }

  GRAFT_INLINE Floats Row(int i) const { return {values[i][0], values[i][1]}; }

  void Store(float coefficient, bool add, float* d) const {
    const __m512 c = _mm512_set1_ps(coefficient);
    for (int i = 0; i < kBlockRows; ++i) {
      for (int j = 0; j < 2; ++j) {
        float* const to = d + i * kBlockCols + 16 * j;
        _mm512_storeu_ps(
            to, add ? _mm512_fmadd_ps(c, values[i][j], _mm512_loadu_ps(to))
                    : _mm512_mul_ps(c, values[i][j]));
      }
    }
  }
};

template <FactorFormat kFormat>
GRAFT_INLINE __m512 LoadFactor(const void* data, int64_t i) {
  if constexpr (kFormat == FactorFormat::kFloat32) {
    return _mm512_loadu_ps(static_cast<const float*>(data) + i);
  } else {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
        static_cast<const uint16_t*>(data) + i));
    if constexpr (kFormat == FactorFormat::kFloat16) {
      return _mm512_cvtph_ps(bits);
    } else {
      return HalfConvert<BFloat16Weight>::WidenHalf(bits);
    }
  }
}

template <FactorFormat kFormat>
GRAFT_INLINE Sums FloatProduct(int rank, const void* up, const void* down) {
  const auto* const up_values = static_cast<const float*>(up);
  Sums sums;
  for (int k = 0; k < rank; ++k) {
    const __m512 left = LoadFactor<kFormat>(down, int64_t{k} * kBlockCols);
    const __m512 right =
        LoadFactor<kFormat>(down, int64_t{k} * kBlockCols + 16);
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
      const __m512 factor = _mm512_set1_ps(up_values[k * kBlockRows + i]);
      sums.values[i][0] = _mm512_fmadd_ps(factor, left, sums.values[i][0]);
      sums.values[i][1] = _mm512_fmadd_ps(factor, right, sums.values[i][1]);
    }
  }
  return sums;
}

struct Avx512 {
  struct Session {};
  static constexpr int kStagedBlocks = 0;
  using Row = Floats;
  using DeltaRow = ScaledFloats;
  static GRAFT_INLINE Row LoadRow(const float* p) { return LoadFloats(p); }
  static GRAFT_INLINE DeltaRow Scaled(float c, Row p) {
    return {_mm512_set1_ps(c), p};
  }

  template <class Use>
  static GRAFT_INLINE void WithProduct(FactorFormat format, int rank,
                                       const void* up, const void* down,
                                       Use use) {
    switch (format) {
      case FactorFormat::kFloat32: {
        Sums sums = FloatProduct<FactorFormat::kFloat32>(rank, up, down);
        return use(sums);
      }
      case FactorFormat::kFloat16: {
        Sums sums = FloatProduct<FactorFormat::kFloat16>(rank, up, down);
        return use(sums);
      }
      default: {
        Sums sums = FloatProduct<FactorFormat::kBFloat16>(rank, up, down);
        return use(sums);
      }
    }
  }

  template <class Weight>
  static GRAFT_INLINE void RestoreRow(const typename Weight::Bits* m,
                                      const DeltaRow& d, uint32_t valid,
                                      const int8_t*& codes,
                                      typename Weight::Bits* w0) {
    if constexpr (std::is_same_v<Weight, Float32Weight>) {
      RestoreFloats(m, _mm512_mul_ps(d.c, d.p.low), valid & 0xffff, codes, w0);
      RestoreFloats(m + 16, _mm512_mul_ps(d.c, d.p.high), valid >> 16, codes,
                    w0 + 16);
    } else {
      RestoreHalfRow<Weight>(m, d, valid, codes, w0);
    }
  }

  template <class Weight>
  static GRAFT_INLINE int MergeRow(const typename Weight::Bits* w0,
                                   const DeltaRow& d, uint32_t valid,
                                   typename Weight::Bits* m, int8_t* codes,
                                   uint32_t& exceptions) {
    if constexpr (std::is_same_v<Weight, Float32Weight>) {
      __mmask16 low, high;
      int count = MergeFloats(w0, _mm512_mul_ps(d.c, d.p.low), valid & 0xffff,
                              m, codes, low);
      count += MergeFloats(w0 + 16, _mm512_mul_ps(d.c, d.p.high), valid >> 16,
                           m + 16, codes + count, high);
      exceptions = low | (uint32_t{high} << 16);
      return count;
    } else {
      return MergeHalfRow<Weight>(w0, d, valid, m, codes, exceptions);
    }
  }
};

}  // namespace
}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_ROWS_AVX512_H_
