#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/weights/kernels/lane_checksum.h"

namespace graft {

// The checksum of a tile, taken by a warp step by step. It is another one than
// the CPU's, which would cost a GPU much of a switch: each lane adds up its own
// words, each times an odd number of its own ("Strongly universal string
// hashing is fast", Lemire and Kaser, 2014), modulo 2^64, so that no change of
// one word, and hardly one of several, is without effect. `Warp` as for
// warp_launch.h.
template <class Warp, class Weight>
class WarpChecksum {
 public:
  using Words =
      typename Warp::template Lanes<typename LaneCodec<Weight>::Words>;

  GRAFT_WARP WarpChecksum() {
    Warp::Each([&](int lane) { sums_[lane] = 0; });
  }

  // The next step of the tile; what lies beyond the parameter is zero.
  GRAFT_WARP void Add(const Words& w0) {
    Warp::Each([&](int lane) {
      uint64_t sum = sums_[lane] << 9 | sums_[lane] >> 55;
#pragma unroll
      for (int i = 0; i < LaneCodec<Weight>::kWords; ++i) {
        sum += uint64_t{w0[lane].v[i]} * Factor(i);
      }
      sums_[lane] = sum;
    });
  }

  GRAFT_WARP uint64_t Fold() const {
    typename Warp::template Lanes<uint64_t> hashes;
    Warp::Each([&](int lane) {
      hashes[lane] = LaneChecksum(static_cast<uint32_t>(lane),
                                  static_cast<uint32_t>(sums_[lane]),
                                  static_cast<uint32_t>(sums_[lane] >> 32));
    });
    return Warp::Sum(hashes);
  }

 private:
  static GRAFT_WARP constexpr uint32_t Factor(int word) {
    return static_cast<uint32_t>(word + 1) * 0x9e3779b9u | 1u;
  }

  typename Warp::template Lanes<uint64_t> sums_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_
