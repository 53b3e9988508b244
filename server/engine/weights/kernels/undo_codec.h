#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_UNDO_CODEC_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_UNDO_CODEC_H_

#include <cmath>
#include <cstdint>

#include "server/engine/weights/kernels/weight_bits.h"

// What rounding loses when a change D (float32) is added to a weight W0 and
// subtracted again, and how it is written down:
//
//   M = round(W0 + D)      the merged weight
//   R = round(M - D)       what subtraction alone gives back
//
// R differs from W0 where low bits of W0 fell off in M. That can be seen again
// at restore from M, R and D alone, so no mask is stored: M has a larger
// exponent than R, or the same one and R is a power of two (below it the
// spacing is half as wide), or, in float32, M - D lies halfway between two
// floats. Such a weight is a *candidate*, and the log holds one code for each,
// in order: the low 4 bits of bits(W0) - bits(R). Weights whose difference a
// code cannot hold (beyond +-kMaxCode, or not 0 although the weight is no
// candidate) are exceptions, listed by their place with W0's own bits. So
// nothing relies on the log being small: it is right for every W0, M and D, NaN
// included.
namespace graft {

inline constexpr int kMaxCode = 7;

// Whether M - D, whose rounding is R, lies halfway between two floats.
GRAFT_HOST_DEVICE inline bool IsTie(float m, float d, float r) {
  // The rounding error of the subtraction (Dekker's Fast2Sum, but for its sign):
  // exact unless D is larger than M, where a tie may be missed. It then is an
  // exception.
  const float back = r - m;
  const float error = d + back;
  const float half_spacing =
      FloatFromBits(FloatBits(r) & Float32Weight::kExponent) *
      5.9604644775390625e-08f;  // 2^-24
  return error == half_spacing || error == -half_spacing;
}

template <class Weight>
GRAFT_HOST_DEVICE inline bool IsCandidate(typename Weight::Bits m,
                                          typename Weight::Bits r, float d) {
  // The mantissa of R makes this false for an equal exponent, unless R is a
  // power of two.
  if ((m & Weight::kExponent) >= (r & Weight::kMagnitude)) return true;
  return sizeof(typename Weight::Bits) == sizeof(float) &&
         IsTie(Weight::Widen(m), d, Weight::Widen(r));
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_UNDO_CODEC_H_
