#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_checksum.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/cuda/warp_launch.h"
#include "server/engine/cuda/warp_log.h"
#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {

// Memory that the lanes share.
template <class Bits>
struct WarpScratch {
  // What the tile becomes, held back until it is known that its log has a
  // place: [step][row of a lane][lane].
  Quad merged[kWarpTileElements * sizeof(Bits) / sizeof(Quad)];
  LogScratch<Bits> old_log;
  LogScratch<Bits> new_log;
};

// The pass over one tile by one warp, whatever tile it is. `Warp` as for
// warp_launch.h.
template <class Warp, class Weight>
class WarpTile {
 public:
  using Bits = typename Weight::Bits;
  using Codec = LaneCodec<Weight>;
  using Words = typename Warp::template Lanes<typename Codec::Words>;
  using Deltas = typename Warp::template Lanes<LaneDelta>;
  using Masks = typename Warp::template Lanes<uint32_t>;

  GRAFT_WARP WarpTile(const SwitchLaunch& launch,
                      const SwitchParameter& parameter, uint64_t tile,
                      WarpScratch<Bits>& scratch)
      : launch_(launch),
        parameter_(parameter),
        tile_(tile),
        scratch_(scratch),
        corner_(FirstStep(parameter, tile)),
        rows_(Min(corner_.rows - corner_.row, kWarpTileRows)),
        cols_(Min(corner_.cols - corner_.col, kWarpTileCols)),
        source_(parameter.merged != nullptr     ? parameter.merged
                : parameter.pristine != nullptr ? parameter.pristine
                                                : parameter.live),
        copies_(parameter.merged != nullptr),
        restores_(Restores(parameter)),
        writes_(parameter.extract == nullptr && parameter.sums == nullptr &&
                !copies_),
        logs_(writes_ && parameter.new_records != nullptr),
        vectors_(parameter.cols * sizeof(Bits) % sizeof(Quad) == 0),
        old_delta_(launch.terms + parameter.old_terms,
                   restores_ ? parameter.num_old_terms : 0),
        new_delta_(launch.terms + parameter.new_terms,
                   writes_ ? parameter.num_new_terms : 0),
        step_(corner_),
        old_log_(scratch.old_log),
        new_log_(scratch.new_log) {
    Warp::Each([&](int lane) { place_[lane] = corner_.PlaceOf(lane, 0); });
  }

  // All of the tile, or nothing.
  GRAFT_WARP TileState Run() {
    Prepare();
    RunSteps(nullptr);
    if (!IsIntact()) return TileState::kDrifted;
    if (logs_) {
      Warp::Sync();
      uint32_t bytes = 0;
      TileRecord record = new_log_.Describe(bytes);
      if (!FindRoom<Warp>(launch_, bytes, record)) return TileState::kNoRoom;
      KeepLog(record);
    }
    if (writes_) WriteMerged();
    return TileState::kDone;
  }

 private:
  static GRAFT_WARP int Min(int a, int b) { return a < b ? a : b; }

  GRAFT_WARP void Prepare() {
    if (restores_) {
      old_log_.Open(parameter_.old_records[tile_], launch_.old_log,
                    launch_.old_log_capacity);
    }
    if (parameter_.checksums != nullptr) {
      Warp::Prefetch(parameter_.checksums + tile_);
    }
    if (logs_) new_log_.Clear();
    Warp::WaitForCopies();
    Warp::Sync();
  }

  // `raw`, unless it is null: W0 goes there, and nothing else happens.
  GRAFT_WARP void RunSteps(Bits* raw) {
    old_log_.Rewind();
#pragma unroll 1
    for (int number = 0; number < kStepsPerTile; ++number) {
      if (StartStep(number)) RunStep(number, raw);
    }
  }

  // False if the step lies beyond the tile.
  GRAFT_WARP bool StartStep(int number) {
    const int row = number / kStepsAcross * kStepRows;
    const int col = number % kStepsAcross * kStepCols;
    step_.row = corner_.row + row;
    step_.col = corner_.col + col;
    in_tile_ = row * step_.cols + col;
    return row < rows_ && col < cols_;
  }

  GRAFT_WARP void RunStep(int number, Bits* raw) {
    Words words;
    Load(words);
    if (restores_) old_delta_.Prefetch(step_);
    if (!copies_) {
      if (restores_) {
        Restore(number, words, raw != nullptr ? Spare() : Staged(number));
      } else {
        new_delta_.Prefetch(step_);
      }
      if (raw != nullptr) {
        StoreRaw(number, words, raw);
        return;
      }
      sums_.Add(words);
    }
    if (writes_) {
      Merge(number, words);
    } else if (parameter_.sums == nullptr) {
      Store(words, parameter_.extract != nullptr ? parameter_.extract
                                                 : parameter_.live);
    }
  }

  // ---- Between memory and registers -----------------------------------------

  // Whether a lane's rows are whole and begin where Load16 may read.
  GRAFT_WARP bool IsVector() const { return vectors_ && step_.whole(); }

  // What lies beyond the parameter is zero.
  GRAFT_WARP void Load(Words& words) const {
    const auto* const from = static_cast<const Bits*>(source_);
    Warp::Each([&](int lane) {
      if (IsVector()) {
        const Bits* const at = from + place_[lane] + in_tile_;
        LoadRow(at, words[lane].v);
        LoadRow(at + 8 * step_.cols, words[lane].v + kRowWords);
        return;
      }
      words[lane] = {};
      const uint32_t valid = step_.Valid(lane);
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        if ((valid >> i & 1u) == 0) continue;
        Codec::Set(i, from[step_.PlaceOf(lane, i)], words[lane]);
      }
    });
  }

  GRAFT_WARP void Store(const Words& words, void* matrix) const {
    auto* const to = static_cast<Bits*>(matrix);
    Warp::Each([&](int lane) {
      if (IsVector()) {
        Bits* const at = to + place_[lane] + in_tile_;
        StoreRow(words[lane].v, at);
        StoreRow(words[lane].v + kRowWords, at + 8 * step_.cols);
        return;
      }
      const uint32_t valid = step_.Valid(lane);
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        if ((valid >> i & 1u) == 0) continue;
        to[step_.PlaceOf(lane, i)] =
            static_cast<Bits>(Codec::Get(words[lane], i));
      }
    });
  }

  static GRAFT_WARP void LoadRow(const Bits* from, uint32_t* to) {
#pragma unroll
    for (int i = 0; i < kRowWords; i += 4) {
      Warp::Load16(from + i * 4 / sizeof(Bits), to + i);
    }
  }
  static GRAFT_WARP void StoreRow(const uint32_t* from, Bits* to) {
#pragma unroll
    for (int i = 0; i < kRowWords; i += 4) {
      Warp::Store16(from + i, to + i * 4 / sizeof(Bits));
    }
  }

  // A row of a lane's elements in a tile that is laid out step by step.
  static GRAFT_WARP int PlaceInTile(int number, int lane, int row) {
    return number * kStepElements + (row * kLanes + lane) * 8;
  }

  // Which of a lane's elements lie in the parameter, as the codec's mask.
  GRAFT_WARP uint32_t ValidMask(int lane) const {
    if (step_.whole()) return ~0u;
    const uint32_t valid = step_.Valid(lane);
    uint32_t mask = 0;
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) {
      if ((valid >> i & 1u) != 0) mask |= Codec::Mask(i);
    }
    return mask;
  }

  // ---- W0 -------------------------------------------------------------------

  // From the merged weights.
  GRAFT_WARP void Restore(int number, Words& words, Quad* room) {
    const Bits* const raw = old_log_.raw();
    if (raw != nullptr) {
      new_delta_.Prefetch(step_);
      Warp::Each([&](int lane) {
        LoadRow(raw + PlaceInTile(number, lane, 0), words[lane].v);
        LoadRow(raw + PlaceInTile(number, lane, 1), words[lane].v + kRowWords);
      });
      return;
    }
    Deltas d;
    old_delta_.Compute(step_, d);
    new_delta_.Prefetch(step_);  // comes while what follows is computed
    Masks candidates;
    Warp::Each([&](int lane) {
      candidates[lane] =
          Codec::Subtract(d[lane], words[lane]) & ValidMask(lane);
    });
    old_log_.template Apply<Codec>(candidates, words);
    old_log_.Patch(number, words, room);
    if (step_.whole()) return;
    Warp::Each([&](int lane) {
      const uint32_t valid = step_.Valid(lane);
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        if ((valid >> i & 1u) == 0) Codec::Set(i, 0, words[lane]);
      }
    });
  }

  // ---- The checksum ---------------------------------------------------------

  GRAFT_WARP bool IsIntact() const {
    const bool wanted = parameter_.sums != nullptr;
    if (!wanted && parameter_.checksums == nullptr) return true;
    const uint64_t checksum = sums_.Fold();
    if (wanted) {
      Warp::Each([&](int lane) {
        if (lane == 0) parameter_.sums[tile_] = checksum;
      });
    }
    return parameter_.checksums == nullptr ||
           graft::IsIntact<Warp>(launch_, parameter_, tile_, checksum);
  }

  // ---- What W0 becomes ------------------------------------------------------

  GRAFT_WARP void Merge(int number, const Words& w0) {
    if (new_delta_.count() == 0) {
      PutStep<Warp>(w0, Staged(number));
      return;
    }
    Deltas d;
    new_delta_.Compute(step_, d);
    Words merged;
    Warp::Each([&](int lane) { Codec::Add(w0[lane], d[lane], merged[lane]); });
    PutStep<Warp>(merged, Staged(number));
    if (!logs_) return;
    new_log_.Add(number, w0, d, merged,
                 [&](int lane) { return ValidMask(lane); });
  }

  GRAFT_WARP Quad* Staged(int number) const {
    return scratch_.merged +
           number * (kStepElements * sizeof(Bits) / sizeof(Quad));
  }
  // Room for a step, once the new log is no longer needed.
  GRAFT_WARP Quad* Spare() const {
    static_assert(sizeof(scratch_.new_log) >= kStepElements * sizeof(Bits));
    return scratch_.new_log.quads();
  }

  // ---- The writes -----------------------------------------------------------

  GRAFT_WARP void KeepLog(const TileRecord& record) {
    new_log_.KeepRecord(record, parameter_.new_records[tile_]);
    uint8_t* const log = launch_.new_log + record.offset;
    if (record.kind == TileRecord::Kind::kLog) {
      new_log_.Store(record, log);
    } else {
      // Nothing is written yet, so W0 can be got back again. All have read what
      // the new log was: Patch() uses its memory.
      Warp::Sync();
      RunSteps(reinterpret_cast<Bits*>(log));
    }
  }

  static GRAFT_WARP void StoreRaw(int number, const Words& w0, Bits* raw) {
    Warp::Each([&](int lane) {
      StoreRow(w0[lane].v, raw + PlaceInTile(number, lane, 0));
      StoreRow(w0[lane].v + kRowWords, raw + PlaceInTile(number, lane, 1));
    });
  }

  GRAFT_WARP void WriteMerged() {
    Warp::Sync();
#pragma unroll 1
    for (int number = 0; number < kStepsPerTile; ++number) {
      if (!StartStep(number)) continue;
      Words merged;
      GetStep<Warp>(Staged(number), merged);
      Store(merged, parameter_.live);
    }
  }

  static constexpr int kRowWords = Codec::kWords / 2;

  const SwitchLaunch& launch_;
  const SwitchParameter& parameter_;
  const uint64_t tile_;
  WarpScratch<Bits>& scratch_;
  const WarpStep corner_;  // the tile's first step
  const int rows_;         // of the tile
  const int cols_;
  const void* const source_;  // what a step begins with
  const bool copies_;         // the merged weights
  const bool restores_;       // W0 from what is live
  const bool writes_;         // what waits in the scratch
  const bool logs_;
  const bool vectors_;
  TermSum<Warp> old_delta_;
  TermSum<Warp> new_delta_;

  typename Warp::template Lanes<int64_t> place_;  // a lane's first element

  WarpStep step_;    // at hand
  int in_tile_ = 0;  // from a tile's element to the step's
  WarpLogReader<Warp, Bits> old_log_;
  WarpChecksum<Warp, Weight> sums_;
  WarpLogWriter<Warp, Weight> new_log_;
};

// Tile number `tile` of a launch, if it is pending and its parameter has this
// dtype.
template <class Warp, class Weight>
GRAFT_WARP void RunWarpTile(const SwitchLaunch& launch, WeightDtype dtype,
                            uint64_t tile,
                            WarpScratch<typename Weight::Bits>& scratch) {
  if (!IsPending(launch, tile)) return;
  const SwitchParameter& parameter = FindParameter<Warp>(launch, tile);
  if (parameter.dtype != dtype) return;
  const TileState state =
      WarpTile<Warp, Weight>(launch, parameter, tile - parameter.first_tile,
                             scratch)
          .Run();
  Warp::Each([&](int lane) {
    if (lane == 0) launch.states[tile] = state;
  });
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_
