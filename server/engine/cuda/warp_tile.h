#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_checksum.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/cuda/warp_log.h"
#include "server/engine/weights/kernels/weight_bits.h"

// The pass over one tile by one warp. Of `Warp` it wants beside what
// warp_delta.h says:
//
//   Sync()                   what lanes wrote is seen by the others
//   CopyAsync16(from, to)    16 bytes from the device's memory to the scratch;
//                            there after WaitForCopies() and Sync()
//   ScanExclusive(x)         sums of the lanes before each; returns the sum of
//                            all
//   Sum(x)                   over all lanes
//   Exchange(x, bit)         each lane gets what lane ^ bit has
//   Or(word, bits)           in the warp's scratch, whoever comes first
//   Claim(counter)           there too: adds one; returns what was there before
//   Store16(from, to)        16 bytes, aligned, to the device's memory
//   Prefetch(from)           towards the caches
//   Add(counter, value)      once for the warp, in the device's memory; returns
//                            what was there, to all
namespace graft {

inline constexpr int kStepsPerTile = kWarpTileElements / kStepElements;
inline constexpr int kStepsAcross = kWarpTileCols / kStepCols;

// `kPlain`: the tiles that nearly all are, with nothing in the way of the ones
// that are not. IsPlain() tells them.
template <class Warp, class Weight, bool kPlain>
class WarpTile {
 public:
  using Bits = typename Weight::Bits;
  using Codec = LaneCodec<Weight>;
  using Words = typename Warp::template Lanes<typename Codec::Words>;
  using Floats = typename Warp::template Lanes<LaneElements<float>>;
  using Masks = typename Warp::template Lanes<uint32_t>;

  GRAFT_WARP WarpTile(const SwitchLaunch& launch,
                      const SwitchParameter& parameter, uint64_t tile,
                      WarpScratch<Bits>& scratch)
      : launch_(launch),
        parameter_(parameter),
        tile_(tile),
        scratch_(scratch),
        row_(static_cast<int>(static_cast<uint32_t>(tile) / Across(parameter)) *
             kWarpTileRows),
        col_(static_cast<int>(static_cast<uint32_t>(tile) % Across(parameter)) *
             kWarpTileCols),
        rows_(kPlain ? kWarpTileRows
                     : Min(static_cast<int>(parameter.rows) - row_,
                           kWarpTileRows)),
        cols_(kPlain ? kWarpTileCols
                     : Min(static_cast<int>(parameter.cols) - col_,
                           kWarpTileCols)),
        source_(!kPlain && parameter.merged != nullptr ? parameter.merged
                : parameter.pristine != nullptr        ? parameter.pristine
                                                       : parameter.live),
        copies_(!kPlain && parameter.merged != nullptr),
        restores_(Restores(parameter)),
        writes_(kPlain || (parameter.extract == nullptr &&
                           parameter.sums == nullptr && !copies_)),
        logs_(writes_ && parameter.new_records != nullptr),
        old_delta_(launch.terms + parameter.old_terms,
                   restores_ ? parameter.num_old_terms : 0),
        new_delta_(launch.terms + parameter.new_terms,
                   writes_ ? parameter.num_new_terms : 0),
        vectors_(kPlain || HasVectors(parameter)),
        old_log_(scratch.old_log),
        sums_(rows_, cols_),
        new_log_(scratch.new_log, scratch.num_exceptions) {
    step_.rows = static_cast<int>(parameter.rows);
    step_.cols = static_cast<int>(parameter.cols);
    step_.row = row_;
    step_.col = col_;
    Warp::Each([&](int lane) { place_[lane] = step_.PlaceOf(lane, 0); });
  }

  // Whether WarpTile<..., true> may run this tile.
  static GRAFT_WARP bool IsPlain(const SwitchParameter& parameter,
                                 uint64_t tile) {
    if (!parameter.plain) return false;
    const uint32_t across = Across(parameter);
    const auto row = static_cast<uint32_t>(tile) / across * kWarpTileRows;
    const auto col = static_cast<uint32_t>(tile) % across * kWarpTileCols;
    return row + kWarpTileRows <= static_cast<uint32_t>(parameter.rows) &&
           col + kWarpTileCols <= static_cast<uint32_t>(parameter.cols) &&
           (!Restores(parameter) ||
            parameter.old_records[tile].kind != TileRecord::Kind::kRaw);
  }

  // All of the tile, or nothing. kPending: nothing, as its log has to be raw,
  // which is not plain.
  GRAFT_WARP TileState Run() {
    Prepare();
    RunSteps(nullptr);
    if (!IsIntact()) return TileState::kDrifted;
    if (logs_) {
      Warp::Sync();
      uint32_t bytes = 0;
      TileRecord record = new_log_.Describe(bytes);
      const bool raw = record.kind == TileRecord::Kind::kRaw;
      if (kPlain && raw) return TileState::kPending;
      record.offset = Warp::Add(&launch_.summary->log_bytes,
                                static_cast<unsigned long long>(bytes));
      if (record.offset + bytes > launch_.new_log_capacity) {
        Warp::Add(&launch_.summary->missing_bytes,
                  static_cast<unsigned long long>(bytes));
        return TileState::kNoRoom;
      }
      KeepLog(record);
    }
    if (writes_) WriteMerged();
    return TileState::kDone;
  }

 private:
  static GRAFT_WARP int Min(int a, int b) { return a < b ? a : b; }
  // Whether W0 is got back from the merged weights.
  static GRAFT_WARP bool Restores(const SwitchParameter& parameter) {
    return parameter.pristine == nullptr && parameter.num_old_terms > 0;
  }
  // Tiles side by side.
  static GRAFT_WARP uint32_t Across(const SwitchParameter& parameter) {
    return static_cast<uint32_t>((parameter.cols + kWarpTileCols - 1) /
                                 kWarpTileCols);
  }
  // Whether its rows begin where Load16 may read.
  static GRAFT_WARP bool HasVectors(const SwitchParameter& parameter) {
    return parameter.cols * sizeof(Bits) % sizeof(Quad) == 0;
  }

  GRAFT_WARP void Prepare() {
    if (restores_) {
      old_log_.Open(parameter_.old_records[tile_], launch_.old_log,
                    launch_.old_log_capacity);
    }
    if (kPlain) {
      // To where what becomes of it will wait.
      const auto* const from = static_cast<const Bits*>(source_);
      for (int number = 0; number < kStepsPerTile; ++number) {
        StartStep(number);
        Warp::Each([&](int lane) {
          const Bits* const at = from + place_[lane] + in_tile_;
          constexpr int kRowQuads = kRowWords / 4;
          for (int i = 0; i < 2 * kRowQuads; ++i) {
            const int row = i / kRowQuads, quad = i % kRowQuads;
            Warp::CopyAsync16(
                at + row * 8 * step_.cols + quad * sizeof(Quad) / sizeof(Bits),
                Staged(number) + (row * kLanes + lane) * kRowQuads + quad);
          }
        });
      }
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
    next_code_ = 0;
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
    step_.row = row_ + row;
    step_.col = col_ + col;
    in_tile_ = row * step_.cols + col;
    return kPlain || (row < rows_ && col < cols_);
  }

  GRAFT_WARP void RunStep(int number, Bits* raw) {
    Words words;
    if constexpr (kPlain) {
      GetStep<Warp>(Staged(number), words);
    } else {
      Load(words);
    }
    if (restores_) old_delta_.Prefetch(step_);
    if (!copies_) {
      if (restores_) {
        Restore(number, words, raw != nullptr ? Spare() : Staged(number));
      } else {
        new_delta_.Prefetch(step_);
      }
      if (!kPlain && raw != nullptr) {
        StoreRaw(number, words, raw);
        return;
      }
      sums_.Add(step_.row - row_, step_.col - col_, words);
    }
    if (writes_) {
      Merge(number, words);
    } else if (parameter_.sums == nullptr) {
      Store(words, parameter_.extract != nullptr ? parameter_.extract
                                                 : parameter_.live);
    }
  }

  // ---- Between memory and registers -----------------------------------------

  GRAFT_WARP bool IsWhole() const { return kPlain || step_.whole(); }
  GRAFT_WARP bool IsVector() const { return vectors_ && IsWhole(); }

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
    if (IsWhole()) return ~0u;
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
    const Bits* const raw = kPlain ? nullptr : old_log_.raw();
    if (raw != nullptr) {
      new_delta_.Prefetch(step_);
      Warp::Each([&](int lane) {
        LoadRow(raw + PlaceInTile(number, lane, 0), words[lane].v);
        LoadRow(raw + PlaceInTile(number, lane, 1), words[lane].v + kRowWords);
      });
      return;
    }
    Floats d;
    old_delta_.Compute(step_, d);
    new_delta_.Prefetch(step_);  // comes while what follows is computed
    Masks candidates, before;
    Warp::Each([&](int lane) {
      candidates[lane] =
          Codec::Subtract(d[lane].v, words[lane]) & ValidMask(lane);
      before[lane] = BitCount(candidates[lane]);
    });
    const uint32_t total = Warp::ScanExclusive(before);
    Warp::Each([&](int lane) {
      Codec::ApplyCodes(candidates[lane],
                        old_log_.Codes(next_code_ + before[lane]), words[lane]);
    });
    next_code_ += total;
    old_log_.Patch(number, words, room);
    if (IsWhole()) return;
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
    if (parameter_.checksums == nullptr ||
        parameter_.checksums[tile_] == checksum) {
      return true;
    }
    Warp::Add(&launch_.summary->num_drifted, 1u);
    return false;
  }

  // ---- What W0 becomes ------------------------------------------------------

  GRAFT_WARP void Merge(int number, const Words& w0) {
    if (new_delta_.count() == 0) {
      PutStep<Warp>(w0, Staged(number));
      return;
    }
    Floats d;
    new_delta_.Compute(step_, d);
    Words merged;
    Warp::Each(
        [&](int lane) { Codec::Add(w0[lane], d[lane].v, merged[lane]); });
    PutStep<Warp>(merged, Staged(number));
    if (!logs_) return;
    typename Warp::template Lanes<LaneCodes> codes;
    Warp::Each([&](int lane) {
      codes[lane] =
          Codec::Encode(w0[lane], d[lane].v, merged[lane], ValidMask(lane),
                        [&](int element, uint32_t bits) {
                          new_log_.Except(number, lane, element, bits);
                        });
    });
    new_log_.Append(codes);
    Warp::Sync();  // exceptions stay in the order of steps
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
    Warp::Each([&](int lane) {
      if (lane == 0) parameter_.new_records[tile_] = record;
    });
    uint8_t* const log = launch_.new_log + record.offset;
    if (kPlain || record.kind == TileRecord::Kind::kLog) {
      new_log_.Store(record, log);
    } else {
      // Nothing is written yet, so W0 can be got back again.
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
  const int row_;  // the tile
  const int col_;
  const int rows_;
  const int cols_;
  const void* const source_;  // what a step begins with
  const bool copies_;         // the merged weights
  const bool restores_;       // W0 from what is live
  const bool writes_;         // what waits in the scratch
  const bool logs_;
  TermSum<Warp, kPlain> old_delta_;
  TermSum<Warp, kPlain> new_delta_;
  const bool vectors_;

  typename Warp::template Lanes<int64_t> place_;  // a lane's first element

  WarpStep step_;    // at hand
  int in_tile_ = 0;  // from a tile's element to the step's
  WarpLogReader<Warp, Bits> old_log_;
  uint32_t next_code_ = 0;
  WarpChecksum<Warp, Weight> sums_;
  WarpLogWriter<Warp, Weight> new_log_;
};

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

// Tile number `tile` of a launch, if it is pending and its parameter has this
// dtype.
template <class Warp, class Weight>
GRAFT_WARP void RunWarpTile(const SwitchLaunch& launch, WeightDtype dtype,
                            uint64_t tile,
                            WarpScratch<typename Weight::Bits>& scratch) {
  using Plain = WarpTile<Warp, Weight, true>;
  using Any = WarpTile<Warp, Weight, false>;
  if (tile >= launch.num_tiles) return;
  if (!launch.all && launch.states[tile] != launch.pending) return;
  const SwitchParameter& parameter = FindParameter<Warp>(launch, tile);
  if (parameter.dtype != dtype) return;
  const uint64_t number = tile - parameter.first_tile;
  TileState state = TileState::kPending;
  if (Plain::IsPlain(parameter, number)) {
    state = Plain(launch, parameter, number, scratch).Run();
  }
  if (state == TileState::kPending) {
    Warp::Sync();  // all have seen why, before the scratch is used anew
    state = Any(launch, parameter, number, scratch).Run();
  }
  Warp::Each([&](int lane) {
    if (lane == 0) launch.states[tile] = state;
  });
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_
