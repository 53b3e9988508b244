#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_LANE_CHECKSUM_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_LANE_CHECKSUM_H_

#include <cstdint>

#include "server/engine/weights/kernels/weight_bits.h"

// The checksum of a tile is the sum of these over its 32 lanes. On a CPU (on a
// CUDA device see warp_checksum.h) lane i of a tile is column i of its blocks
// (word i, where weights have 16 bits): the sequence x_0 ... x_(T-1) of what
// the T rows of the tile's blocks hold there, block by block. Of it `a` is the
// sum, and `b` the sum of the sums so far. All modulo 2^32.
namespace graft {

GRAFT_HOST_DEVICE inline uint64_t LaneChecksum(uint32_t lane, uint32_t a,
                                               uint32_t b) {
  uint64_t x = (uint64_t{b} << 32 | a) + (lane + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_LANE_CHECKSUM_H_
