#ifndef GRAFT_TESTS_ENGINE_WEIGHT_ROUNDING_H_
#define GRAFT_TESTS_ENGINE_WEIGHT_ROUNDING_H_

#include <cstdint>

#include "server/engine/weights/kernels/delta_term.h"
#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {

inline constexpr WeightDtype kDtypes[] = {
    WeightDtype::kFloat32, WeightDtype::kBFloat16, WeightDtype::kFloat16};

// The bits of the weight next to `value`.
inline uint32_t RoundTo(WeightDtype dtype, float value) {
  switch (dtype) {
    case WeightDtype::kFloat32:
      return Float32Weight::Round(value);
    case WeightDtype::kBFloat16:
      return BFloat16Weight::Round(value);
    case WeightDtype::kFloat16:
      break;
  }
  return Float16Weight::Round(value);
}

}  // namespace graft

#endif  // GRAFT_TESTS_ENGINE_WEIGHT_ROUNDING_H_
