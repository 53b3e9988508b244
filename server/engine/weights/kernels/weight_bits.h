#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_WEIGHT_BITS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_WEIGHT_BITS_H_

#include <cmath>
#include <cstdint>
#include <cstring>

// Weights as the integers that hold them, and the arithmetic on one of them
// that every path shares: the portable one, the vector ones (which must give
// the same bits) and the CUDA one, which includes this header.

#ifdef __CUDACC__
#define GRAFT_HOST_DEVICE __host__ __device__
#else
#define GRAFT_HOST_DEVICE
#endif

namespace graft {

GRAFT_HOST_DEVICE inline uint32_t FloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

GRAFT_HOST_DEVICE inline float FloatFromBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// One struct per weight type: Bits holds a weight; Widen is exact; Round goes
// to the nearest, ties to even, and keeps denormals. Those of 16 bits have the
// same for two weights in one word, the first in its low half.
struct Float32Weight {
  using Bits = uint32_t;
  static constexpr Bits kExponent = 0x7f800000u;
  static constexpr Bits kMagnitude = 0x7fffffffu;
  GRAFT_HOST_DEVICE static float Widen(Bits bits) {
    return FloatFromBits(bits);
  }
  GRAFT_HOST_DEVICE static Bits Round(float value) { return FloatBits(value); }
};

struct BFloat16Weight {
  using Bits = uint16_t;
  static constexpr Bits kExponent = 0x7f80u;
  static constexpr Bits kMagnitude = 0x7fffu;
  GRAFT_HOST_DEVICE static float Widen(Bits bits) {
    return FloatFromBits(static_cast<uint32_t>(bits) << 16);
  }
  // By integers: instructions that convert flush denormals. A NaN may become
  // another NaN or an infinity; whoever checks sees either.
  GRAFT_HOST_DEVICE static Bits Round(float value) {
    const uint32_t bits = FloatBits(value);
    return static_cast<Bits>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }

  GRAFT_HOST_DEVICE static float WidenLow(uint32_t pair) {
    return FloatFromBits(pair << 16);
  }
  GRAFT_HOST_DEVICE static float WidenHigh(uint32_t pair) {
    return FloatFromBits(pair & 0xffff0000u);
  }
  GRAFT_HOST_DEVICE static uint32_t RoundPair(float low, float high) {
    return Round(low) | static_cast<uint32_t>(Round(high)) << 16;
  }
};

struct Float16Weight {
  using Bits = uint16_t;
  static constexpr Bits kExponent = 0x7c00u;
  static constexpr Bits kMagnitude = 0x7fffu;

  GRAFT_HOST_DEVICE static float Widen(Bits bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) {  // infinity, NaN (made quiet, as hardware does)
      const uint32_t payload = magnitude & 0x3ffu;
      return FloatFromBits(sign | 0x7f800000u | (payload << 13) |
                           (payload != 0 ? 0x400000u : 0));
    }
    // 2^112 rebiases the exponent, denormals included.
    const float value =
        FloatFromBits(magnitude << 13) * FloatFromBits(0x77800000u);
    return FloatFromBits(FloatBits(value) | sign);
  }

  GRAFT_HOST_DEVICE static Bits Round(float value) {
    const uint32_t bits = FloatBits(value);
    const Bits sign = static_cast<Bits>((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {  // NaN
      return static_cast<Bits>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
    if (magnitude < 0x38800000u) {                        // denormal or zero
      // Adding 0.5 leaves the value, in units of 2^-24, in the last bits.
      const float shifted = FloatFromBits(magnitude) + 0.5f;
      return static_cast<Bits>(sign | (FloatBits(shifted) - 0x3f000000u));
    }
    const uint32_t rebiased = magnitude - 0x38000000u;
    return static_cast<Bits>(
        sign | ((rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13));
  }

  GRAFT_HOST_DEVICE static float WidenLow(uint32_t pair) {
    return Widen(static_cast<Bits>(pair));
  }
  GRAFT_HOST_DEVICE static float WidenHigh(uint32_t pair) {
    return Widen(static_cast<Bits>(pair >> 16));
  }
  GRAFT_HOST_DEVICE static uint32_t RoundPair(float low, float high) {
    return Round(low) | static_cast<uint32_t>(Round(high)) << 16;
  }
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_WEIGHT_BITS_H_
