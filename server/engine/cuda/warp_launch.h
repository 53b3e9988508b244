#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_LAUNCH_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_LAUNCH_H_

#include <cstdint>

#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_delta.h"

// What a warp reads of a launch and adds to it, whichever way its tile goes
// (plain_tile.h, warp_tile.h). Of `Warp` these three want beside what
// warp_delta.h says:
//
//   Sync()                   what lanes wrote is seen by the others
//   CopyAsync16(from, to)    16 bytes from the device's memory to the scratch;
//                            there after WaitForCopies() and Sync()
//   ScanExclusive(x)         sums of the lanes before each; returns the sum of
//                            all
//   Sum(x)                   over all lanes
//   CountLanes(x)            of which it is true
//   Or(word, bits)           in the warp's scratch, whoever comes first
//   Claim(counter)           there too: adds one; returns what was there before
//   Store16(from, to)        16 bytes, aligned, to the device's memory
//   Prefetch(from)           towards the caches
//   Add(counter, value)      once for the warp, in the device's memory; returns
//                            what was there, to all
namespace graft {

inline constexpr int kStepsPerTile = kWarpTileElements / kStepElements;
inline constexpr int kStepsAcross = kWarpTileCols / kStepCols;

GRAFT_WARP bool IsPending(const SwitchLaunch& launch, uint64_t tile) {
  return tile < launch.num_tiles &&
         (launch.all || launch.states[tile] == launch.pending);
}

// Whether W0 is got back from the merged weights.
GRAFT_WARP bool Restores(const SwitchParameter& parameter) {
  return parameter.pristine == nullptr && parameter.num_old_terms > 0;
}

// The first step of the parameter's tile number `tile`.
GRAFT_WARP WarpStep FirstStep(const SwitchParameter& parameter, uint64_t tile) {
  const auto number = static_cast<uint32_t>(tile);
  const auto across = static_cast<uint32_t>(
      (parameter.cols + kWarpTileCols - 1) / kWarpTileCols);
  WarpStep step;
  step.row = static_cast<int>(number / across) * kWarpTileRows;
  step.col = static_cast<int>(number % across) * kWarpTileCols;
  step.rows = static_cast<int>(parameter.rows);
  step.cols = static_cast<int>(parameter.cols);
  return step;
}

// Whether W0, of which `checksum` is, is what was loaded; counts it if not.
template <class Warp>
GRAFT_WARP bool IsIntact(const SwitchLaunch& launch,
                         const SwitchParameter& parameter, uint64_t tile,
                         uint64_t checksum) {
  if (parameter.checksums[tile] == checksum) return true;
  Warp::Add(&launch.summary->num_drifted, 1u);
  return false;
}

// Room for a log of that many bytes, if there is any; counts it if not.
template <class Warp>
GRAFT_WARP bool FindRoom(const SwitchLaunch& launch, uint32_t bytes,
                         TileRecord& record) {
  const auto size = static_cast<unsigned long long>(bytes);
  record.offset = Warp::Add(&launch.summary->log_bytes, size);
  if (record.offset + bytes <= launch.new_log_capacity) return true;
  Warp::Add(&launch.summary->missing_bytes, size);
  return false;
}

// The parameter that tile number `tile` of a launch belongs to. All lanes look
// at once, so that memory is waited for twice, and not for each halving.
template <class Warp>
GRAFT_WARP const SwitchParameter& FindParameter(const SwitchLaunch& launch,
                                                uint64_t tile) {
  uint32_t first = 0, count = launch.num_parameters;
  while (count > 1) {
    const uint32_t stride = (count + kLanes - 1) / kLanes;
    typename Warp::template Lanes<bool> before;
    Warp::Each([&](int lane) {
      const uint32_t i = static_cast<uint32_t>(lane) * stride;
      before[lane] =
          i < count && launch.parameters[first + i].first_tile <= tile;
    });
    const uint32_t last = (Warp::CountLanes(before) - 1) * stride;
    first += last;
    count = count - last < stride ? count - last : stride;
  }
  return launch.parameters[first];
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_LAUNCH_H_
