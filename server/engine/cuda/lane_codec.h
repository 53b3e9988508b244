#ifndef GRAFT_SERVER_ENGINE_CUDA_LANE_CODEC_H_
#define GRAFT_SERVER_ENGINE_CUDA_LANE_CODEC_H_

#include <cmath>
#include <cstdint>

#include "server/engine/cuda/warp_delta.h"
#include "server/engine/weights/kernels/undo_codec.h"
#include "server/engine/weights/kernels/weight_bits.h"

// What one lane does with the sixteen weights that it has of a step: D is added
// or subtracted, and what rounding loses is coded as undo_codec.h says. Pure
// functions of the lane's registers, and where most of the switch's
// instructions are: weights of 16 bits are kept, compared and coded two at a
// time.
//
// Elements 0 to 7 are neighbours in one row, 8 to 15 in another. A mask has one
// bit for each element, in the order of Mask(): rows stay apart.
namespace graft {

GRAFT_WARP uint32_t BitCount(uint32_t mask) {
#ifdef __CUDACC__
  return static_cast<uint32_t>(__popc(mask));
#else
  return static_cast<uint32_t>(__builtin_popcount(mask));
#endif
}

// All bits of the halves of which IsCandidate() holds, but for merged weights
// and R that are not finite or (bfloat16) beyond 2^120: it is the comparison of
// float16 numbers. Any function of the two would do.
GRAFT_WARP uint32_t CompareHalves(uint32_t merged_exponents, uint32_t r) {
#ifdef __CUDACC__
  uint32_t candidates;
  asm("{.reg .b32 m; abs.f16x2 m, %2; set.ge.u32.f16x2 %0, %1, m;}"
      : "=r"(candidates)
      : "r"(merged_exponents), "r"(r));
  return candidates;
#else
  uint32_t candidates = 0;
  for (uint32_t half = 0xffffu; half != 0; half <<= 16) {
    const uint32_t magnitudes = r & 0x7fff7fffu;
    if ((merged_exponents & half) >= (magnitudes & half)) candidates |= half;
  }
  return candidates;
#endif
}

// The codes of a lane, each 4 bits, + 8 for none to be negative; those of the
// first row in the low ones.
struct LaneCodes {
  uint64_t bits = 0;
  uint32_t count = 0;
};

template <class Weight, int kBytes = sizeof(typename Weight::Bits)>
class LaneCodec;

// Two weights to a word, the first in its low half.
template <class Weight>
class LaneCodec<Weight, 2> {
 public:
  static constexpr int kWords = kLaneElements / 2;
  struct Words {
    uint32_t v[kWords];
  };

  static GRAFT_WARP uint32_t Mask(int element) {
    return 1u << (element / 2 + element % 2 * 16);
  }

  // Element `i`, a constant: registers cannot be indexed.
  static GRAFT_WARP uint32_t Get(const Words& words, int i) {
    return words.v[i / 2] >> (i % 2 * 16) & 0xffffu;
  }
  // Any element.
  static GRAFT_WARP void Set(int i, uint32_t bits, Words& words) {
    const uint32_t half = i % 2 == 0 ? 0x0000ffffu : 0xffff0000u;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t here = w == i / 2 ? half : 0u;
      words.v[w] = (words.v[w] & ~here) | (bits * 0x00010001u & here);
    }
  }

  // W0 + D, rounded.
  static GRAFT_WARP void Add(const Words& w0, const LaneDelta& d,
                             Words& merged) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      merged.v[w] = Weight::RoundPair(
          fmaf(d.c, d.p[2 * w], Weight::WidenLow(w0.v[w])),
          fmaf(d.c, d.p[2 * w + 1], Weight::WidenHigh(w0.v[w])));
    }
  }

  // Merged weights become R; returns which of them are candidates.
  static GRAFT_WARP uint32_t Subtract(const LaneDelta& d, Words& words) {
    uint32_t candidates = 0;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t merged = words.v[w];
      words.v[w] = Without(merged, d, w);
      candidates |= Compare(merged, words.v[w]) & kBits << w;
    }
    return candidates;
  }

  // R becomes W0, but for exceptions.
  static GRAFT_WARP void ApplyCodes(uint32_t candidates, uint64_t codes,
                                    Words& words) {
    const uint32_t first = BitCount(candidates & kFirstRow);
    const uint32_t second = BitCount(candidates & ~kFirstRow);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      // With the first code in the highest bits. Without any, it is not read.
      uint32_t stream = row == 0 ? static_cast<uint32_t>(codes)
                                       << ((8 - first) * 4 & 31u)
                                 : static_cast<uint32_t>(codes >> (first * 4))
                                       << ((8 - second) * 4 & 31u);
      stream ^= 0x88888888u;  // their signs
#pragma unroll
      for (int w = row * kWords / 2; w < (row + 1) * kWords / 2; ++w) {
        // As both halves of W0 are what they are, no sum of a word's halves
        // carries from one into the other that would not have to.
        if ((candidates >> w & 1u) != 0) {
          words.v[w] += SignedCode(stream);
          stream <<= 4;
        }
        if ((candidates >> (w + 16) & 1u) != 0) {
          words.v[w] += SignedCode(stream) << 16;
          stream <<= 4;
        }
      }
    }
  }

  // The codes of W0, with those in `valid` alone. What no code can say is
  // handed to `except(element, bits of W0)`.
  template <class Except>
  static GRAFT_WARP LaneCodes Encode(const Words& w0, const LaneDelta& d,
                                     const Words& merged, uint32_t valid,
                                     const Except& except) {
    uint32_t candidates = 0, misfits = 0;
    // Of W0 from R, in each half; of a candidate + 8, as its code.
    uint32_t distance[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t r = Without(merged.v[w], d, w);
      const uint32_t here = Compare(merged.v[w], r);
      candidates |= here & kBits << w;
      distance[w] = w0.v[w] - r + (here & 0x00080008u);
      misfits |= Misfits(distance[w], here);
    }
    candidates &= valid;
    if (misfits != 0) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        const uint32_t here = candidates >> w & kBits;
        if (Misfits(distance[w], here * 0xffffu) == 0) continue;
        const uint32_t r = Without(merged.v[w], d, w);
        uint32_t exact = 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int shift = half * 16;
          const uint32_t far =
              ((w0.v[w] >> shift) - (r >> shift) + 8u) & 0xffffu;
          const bool fits = (here >> shift & 1u) != 0 ? far < 16u : far == 8u;
          if (!fits && (valid >> (w + shift) & 1u) != 0) {
            except(2 * w + half, w0.v[w] >> shift & 0xffffu);
          }
          // A distance of 0 cannot disturb the other half.
          exact |= (fits ? far : 8u) << shift;
        }
        distance[w] = exact;
      }
    }
    uint32_t streams[2] = {0, 0};
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      uint32_t& stream = streams[w / (kWords / 2)];
      if ((candidates >> w & 1u) != 0) {
        stream = stream * 16 + (distance[w] & 0xffffu);
      }
      if ((candidates >> (w + 16) & 1u) != 0) {
        stream = stream * 16 + (distance[w] >> 16);
      }
    }
    LaneCodes codes;
    codes.bits = uint64_t{streams[0]} |
                 uint64_t{streams[1]} << (BitCount(candidates & kFirstRow) * 4);
    codes.count = BitCount(candidates);
    return codes;
  }

 private:
  static constexpr uint32_t kExponents = Weight::kExponent * 0x00010001u;
  static constexpr uint32_t kBits = 0x00010001u;  // of the first word's halves
  static constexpr uint32_t kFirstRow = 0x000f000fu;

  static GRAFT_WARP uint32_t SignedCode(uint32_t stream) {
    return static_cast<uint32_t>(static_cast<int32_t>(stream) >> 28);
  }

  // R of word `w`.
  static GRAFT_WARP uint32_t Without(uint32_t merged, const LaneDelta& d,
                                     int w) {
    return Weight::RoundPair(
        fmaf(-d.c, d.p[2 * w], Weight::WidenLow(merged)),
        fmaf(-d.c, d.p[2 * w + 1], Weight::WidenHigh(merged)));
  }

  static GRAFT_WARP uint32_t Compare(uint32_t merged, uint32_t r) {
    return CompareHalves(merged & kExponents, r);
  }

  // Nonzero if no code can say one of the distances: of a candidate, beyond
  // [-8, 7]; else any. Modulo 2^16 one looks as if it could be said only if W0
  // or R is no number, which no candidate is. So a low half that borrows from
  // the other, or carries into it, is a misfit itself, and that the other may
  // seem to be one, or to be none, does not matter.
  static GRAFT_WARP uint32_t Misfits(uint32_t distance, uint32_t candidates) {
    return distance & ~(candidates & 0x000f000fu);
  }
};

// One weight to a word.
template <class Weight>
class LaneCodec<Weight, 4> {
 public:
  static constexpr int kWords = kLaneElements;
  struct Words {
    uint32_t v[kWords];
  };

  static GRAFT_WARP uint32_t Mask(int element) { return 1u << element; }

  static GRAFT_WARP uint32_t Get(const Words& words, int i) {
    return words.v[i];
  }
  static GRAFT_WARP void Set(int i, uint32_t bits, Words& words) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t here = w == i ? ~0u : 0u;
      words.v[w] = (words.v[w] & ~here) | (bits & here);
    }
  }

  static GRAFT_WARP void Add(const Words& w0, const LaneDelta& d,
                             Words& merged) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      merged.v[w] = Weight::Round(Weight::Widen(w0.v[w]) + d.c * d.p[w]);
    }
  }

  static GRAFT_WARP uint32_t Subtract(const LaneDelta& d, Words& words) {
    uint32_t candidates = 0;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t merged = words.v[w];
      const float change = d.c * d.p[w];
      words.v[w] = Weight::Round(Weight::Widen(merged) - change);
      if (IsCandidate<Weight>(merged, words.v[w], change)) {
        candidates |= 1u << w;
      }
    }
    return candidates;
  }

  static GRAFT_WARP void ApplyCodes(uint32_t candidates, uint64_t codes,
                                    Words& words) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      if ((candidates >> w & 1u) == 0) continue;
      words.v[w] += (static_cast<uint32_t>(codes) & 15u) - 8u;
      codes >>= 4;
    }
  }

  template <class Except>
  static GRAFT_WARP LaneCodes Encode(const Words& w0, const LaneDelta& d,
                                     const Words& merged, uint32_t valid,
                                     const Except& except) {
    LaneCodes codes;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      if ((valid >> w & 1u) == 0) continue;
      const float change = d.c * d.p[w];
      const uint32_t r = Weight::Round(Weight::Widen(merged.v[w]) - change);
      const uint32_t distance = w0.v[w] - r + 8u;
      const bool candidate = IsCandidate<Weight>(merged.v[w], r, change);
      if (candidate) {
        codes.bits |= uint64_t{distance & 15u} << (codes.count++ * 4);
      }
      if (candidate ? distance >= 16u : distance != 8u) {
        except(w, w0.v[w]);
      }
    }
    return codes;
  }
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_LANE_CODEC_H_
