#ifndef GRAFT_TESTS_ENGINE_PTX_HALF_H_
#define GRAFT_TESTS_ENGINE_PTX_HALF_H_

#include <bit>
#include <cmath>
#include <cstdint>

// Numbers of 16 bits, as PTX converts them. Not the kernels' own code, which
// they are there to check.
namespace graft::ptx {

// What operations of each type make of a NaN.
inline constexpr uint32_t kFloatNan = 0x7fffffffu;
inline constexpr uint16_t kHalfNan = 0x7fffu;  // float16 and bfloat16

inline float FloatFromFloat16(uint16_t bits) {
  const uint32_t exponent = bits >> 10 & 31u;
  const uint32_t fraction = bits & 0x3ffu;
  if (exponent == 31 && fraction != 0) return std::bit_cast<float>(kFloatNan);
  const float magnitude =
      exponent == 31 ? INFINITY
      : exponent == 0
          ? std::ldexp(static_cast<float>(fraction), -24)
          : std::bit_cast<float>((exponent + 112) << 23 | fraction << 13);
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

inline float FloatFromBFloat16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// To the nearest, ties to even.
inline uint16_t Float16FromFloat(float value) {
  if (std::isnan(value)) return kHalfNan;
  const float magnitude = std::fabs(value);
  const auto sign = static_cast<uint32_t>(std::signbit(value) ? 0x8000 : 0);
  if (magnitude >= 65520.0F) return static_cast<uint16_t>(sign | 0x7c00u);
  // In units of the last place; 1024 of them are the next exponent.
  const int exponent = magnitude < 0x1p-14F ? -14 : std::ilogb(magnitude);
  const auto units = static_cast<uint32_t>(
      std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(
      sign | (static_cast<uint32_t>(exponent + 14) * 1024 + units));
}

inline uint16_t BFloat16FromFloat(float value) {
  if (std::isnan(value)) return kHalfNan;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t half = 0x7fffu + (bits >> 16 & 1u);
  return static_cast<uint16_t>((bits + half) >> 16);
}

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_HALF_H_
