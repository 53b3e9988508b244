#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/weights/kernels/lane_checksum.h"

namespace graft {

// The checksum of a tile, as lane_checksum.h defines it, taken by a warp step
// by step. `Warp` as for warp_tile.h.
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
    // Each lane takes one of the checksum's: word lane / 4 of the four lanes'
    // rows. Those that 16-bit weights leave empty come behind.
    typename Warp::template Lanes<uint32_t> own_a, own_b;
    Warp::Each([&](int lane) { own_a[lane] = own_b[lane] = 0; });
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      typename Warp::template Lanes<uint32_t> a, b;
      Warp::Each([&](int lane) {
        a[lane] = sums_[lane].a[i];
        b[lane] = sums_[lane].b[i];
      });
      Warp::SumOverRows(a);
      Warp::SumOverRows(b);
      Warp::Each([&](int lane) {
        own_a[lane] = lane / 4 == i ? a[lane] : own_a[lane];
        own_b[lane] = lane / 4 == i ? b[lane] : own_b[lane];
      });
    }
    typename Warp::template Lanes<uint64_t> hashes;
    Warp::Each([&](int lane) {
      const int number =
          lane < 4 * kWords ? lane % 4 * kWords + lane / 4 : lane;
      hashes[lane] =
          LaneChecksum(static_cast<uint32_t>(number), own_a[lane], own_b[lane]);
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

  const int blocks_across_;
  const int block_rows_;
  typename Warp::template Lanes<LaneSums> sums_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_CHECKSUM_H_
