#ifndef GRAFT_SERVER_ENGINE_CUDA_SWITCH_LAUNCH_H_
#define GRAFT_SERVER_ENGINE_CUDA_SWITCH_LAUNCH_H_

#include <cstdint>

#include "server/engine/weights/kernels/delta_term.h"

// What the kernels are told, as plain data in the device's memory. Both sides
// of the C interface are built from this header.
namespace graft {

// One warp switches one tile of 32 x 64 weights.
inline constexpr int kWarpTileRows = 32;
inline constexpr int kWarpTileCols = 64;
inline constexpr int kWarpTileElements = kWarpTileRows * kWarpTileCols;

// What became of a tile.
enum class TileState : uint8_t {
  kPending,
  kDone,
  kNoRoom,   // its log does not fit the arena; the tile is as it was
  kDrifted,  // its W0 is not what was loaded; the tile is as it was
  kSkip,     // not a part of this launch
};

// One parameter's way from one state to another, as ParameterSwitch.
struct SwitchParameter {
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t first_tile = 0;  // tiles of the launch before this parameter's
  WeightDtype dtype = WeightDtype::kFloat32;
  bool plain = false;  // IsPlain() holds

  void* live = nullptr;
  // Where W0 comes from: this copy, if set; else `live`, the old terms and the
  // old log.
  const void* pristine = nullptr;
  uint32_t old_terms = 0;  // number of the first in the launch's table
  uint32_t num_old_terms = 0;
  const TileRecord* old_records = nullptr;

  // Where it goes: to `live`, with the new terms added and a log kept if there
  // are new records; or `merged` is copied there; or, `live` staying as it is,
  // W0 to `extract`, or its checksums to `sums`.
  uint32_t new_terms = 0;
  uint32_t num_new_terms = 0;
  TileRecord* new_records = nullptr;
  const void* merged = nullptr;
  void* extract = nullptr;
  uint64_t* sums = nullptr;
  // Of W0 as it was loaded; null to go on whatever it is.
  const uint64_t* checksums = nullptr;
};

inline bool AreProducts(const DeltaTerm* terms, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    if (terms[i].kind != DeltaTerm::Kind::kLowRank) return false;
  }
  return true;
}

// Whether tiles of this parameter may go the plain way, if they have no edges
// and their old log is not raw: weights are written, what is computed are
// products, and rows begin at multiples of 16 bytes. `terms`: the launch's
// table.
inline bool IsPlain(const SwitchParameter& parameter, const DeltaTerm* terms) {
  const int per_row = parameter.dtype == WeightDtype::kFloat32 ? 4 : 8;
  return parameter.merged == nullptr && parameter.extract == nullptr &&
         parameter.sums == nullptr && parameter.cols % per_row == 0 &&
         (parameter.pristine != nullptr ||
          AreProducts(terms + parameter.old_terms, parameter.num_old_terms)) &&
         AreProducts(terms + parameter.new_terms, parameter.num_new_terms);
}

inline bool HasSums(const SwitchParameter& parameter) {
  return parameter.plain &&
         (parameter.num_old_terms > 1 || parameter.num_new_terms > 1);
}

// What a launch did; added to by all tiles.
struct SwitchSummary {
  // Of the arena: taken, those that did not fit included, and those alone.
  unsigned long long log_bytes = 0;  // as CUDA's atomics want it
  unsigned long long missing_bytes = 0;
  uint32_t num_drifted = 0;
  uint32_t num_rest = 0;  // tiles in the launch's `rest`
};

struct SwitchLaunch {
  const SwitchParameter* parameters = nullptr;
  uint32_t num_parameters = 0;
  const DeltaTerm* terms = nullptr;
  uint64_t num_tiles = 0;
  // One per tile. Only those that are `pending` are switched; `all`: all are,
  // so that none has to be looked at.
  TileState* states = nullptr;
  TileState pending = TileState::kPending;
  bool all = false;
  // Tiles that cannot go the plain way are listed here by those that try; null
  // if none has to try.
  uint32_t* rest = nullptr;
  // Whether a plain parameter has more than one product, old or new.
  bool sums = false;
  const uint8_t* old_log = nullptr;
  uint64_t old_log_capacity = 0;
  uint8_t* new_log = nullptr;
  uint64_t new_log_capacity = 0;
  SwitchSummary* summary = nullptr;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_SWITCH_LAUNCH_H_
