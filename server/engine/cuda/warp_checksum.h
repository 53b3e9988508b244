#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/weights/kernels/lane_checksum.h"

namespace graft {

// The checksum of a tile, as lane_checksum.h defines it, taken by a warp step
// by step. `Warp` as for warp_launch.h.
template <class Warp, class Weight>
class WarpChecksum {
 public:
  using Words =
      typename Warp::template Lanes<typename LaneCodec<Weight>::Words>;

  // For a tile of this size.
  GRAFT_WARP WarpChecksum(int rows, int cols)
      : blocks_across_((cols + kStepCols - 1) / kStepCols),
        block_rows_((rows + 7) / 8 * blocks_across_ * 8) {
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < kWords; ++i) sums_[lane].a[i] = sums_[lane].b[i] = 0;
    });
  }

  // The step that begins at this place of the tile.
  GRAFT_WARP void Add(int row, int col, const Words& w0) {
    const int block = row / 8 * blocks_across_ + col / kStepCols;
    Warp::Each([&](int lane) {
      LaneSums& sums = sums_[lane];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Rows of the tile's blocks from this one on.
        const auto weight = static_cast<uint32_t>(
            block_rows_ - (block + half * blocks_across_) * 8 - lane / 4);
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
          const uint32_t word = w0[lane].v[half * kWords + i];
          sums.a[i] += word;
          sums.b[i] += weight * word;
        }
      }
    });
  }

  GRAFT_WARP uint64_t Fold() const {
    // Over the lanes of all rows, by halving: each lane gives one that is
    // further off half of what it has, and adds what it gets to the rest. In
    // the end it has one word's sums.
    Sums sums = sums_;
    int words = kWords;
#pragma unroll
    for (int distance = kLanes / 2; distance >= 4; distance /= 2) {
      const int kept = words > 1 ? words / 2 : 1;
#pragma unroll
      for (int i = 0; i < kept; ++i) {
        AddFrom(distance, &LaneSums::a, i, words - kept, sums);
        AddFrom(distance, &LaneSums::b, i, words - kept, sums);
      }
      words = kept;
    }
    typename Warp::template Lanes<uint64_t> hashes;
    Warp::Each([&](int lane) {
      // Of 16-bit weights two lanes have the same sums, in place of which one
      // takes a lane of the checksum that is empty; those come behind.
      const bool empty = kWords < 8 && lane / 4 % 2 != 0;
      const int number =
          lane % 4 * kWords + lane * kWords / kLanes + (empty ? kLanes / 2 : 0);
      hashes[lane] = LaneChecksum(static_cast<uint32_t>(number),
                                  empty ? 0 : sums[lane].a[0],
                                  empty ? 0 : sums[lane].b[0]);
    });
    return Warp::Sum(hashes);
  }

 private:
  // Of one row of a lane's elements.
  static constexpr int kWords = LaneCodec<Weight>::kWords / 2;
  struct LaneSums {
    uint32_t a[kWords];
    uint32_t b[kWords];
  };

  using Sums = typename Warp::template Lanes<LaneSums>;

  // Element `i` of an array becomes the sum of the lane's own and the other
  // lane's, where lanes with that bit set keep element i + `upper`.
  static GRAFT_WARP void AddFrom(int distance,
                                 uint32_t (LaneSums::*array)[kWords], int i,
                                 int upper, Sums& sums) {
    typename Warp::template Lanes<uint32_t> given;
    Warp::Each([&](int lane) {
      uint32_t* const values = sums[lane].*array;
      const bool keeps_upper = (lane & distance) != 0;
      given[lane] = keeps_upper ? values[i] : values[i + upper];
      values[i] = keeps_upper ? values[i + upper] : values[i];
    });
    Warp::Exchange(given, distance);
    Warp::Each([&](int lane) { (sums[lane].*array)[i] += given[lane]; });
  }

  const int blocks_across_;
  const int block_rows_;
  Sums sums_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_
