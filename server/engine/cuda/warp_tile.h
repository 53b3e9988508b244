#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_TILE_H_

#include <cstdint>

#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_checksum.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/cuda/warp_log.h"
#include "server/engine/weights/kernels/undo_codec.h"
#include "server/engine/weights/kernels/weight_bits.h"

// The pass over one tile by one warp. Of `Warp` it wants beside what
// warp_delta.h says:
//
//   Sync()                   what lanes wrote is seen by the others
//   CountBits(mask)
//   ScanExclusive(x)         sums of the lanes before each; returns the sum of
//                            all
//   Sum(x), SumOverRows(x)   over all lanes; over those with the same lane % 4,
//                            on each of them
//   Or(word, bits)           in the warp's scratch, whoever comes first
//   Store16(from, to)        16 bytes, aligned, to the device's memory
//   Prefetch(from)           towards the caches
//   Add(counter, value)      once for the warp, in the device's memory; returns
//                            what was there, to all
namespace graft {

inline constexpr int kStepsPerTile = kWarpTileElements / kStepElements;
inline constexpr int kStepsAcross = kWarpTileCols / kStepCols;

template <class Warp, class Weight>
class WarpTile {
 public:
  using Bits = typename Weight::Bits;
  using Weights = typename Warp::template Lanes<LaneElements<Bits>>;
  using Floats = typename Warp::template Lanes<LaneElements<float>>;
  using Counts = typename Warp::template Lanes<uint32_t>;

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
        rows_(Min(static_cast<int>(parameter.rows) - row_, kWarpTileRows)),
        cols_(Min(static_cast<int>(parameter.cols) - col_, kWarpTileCols)),
        source_(parameter.merged != nullptr     ? parameter.merged
                : parameter.pristine != nullptr ? parameter.pristine
                                                : parameter.live),
        vectors_(parameter.cols * sizeof(Bits) % 16 == 0),
        sums_(rows_, cols_),
        new_log_(scratch) {
    step_.rows = static_cast<int>(parameter.rows);
    step_.cols = static_cast<int>(parameter.cols);
  }

  // All of the tile, or nothing.
  GRAFT_WARP TileState Run() {
    Prepare();
    // Once, and where the log turned out to be no smaller than W0 once more:
    // nothing is written by then, so W0 can be got back again.
    for (Bits* raw = nullptr;;) {
      next_code_ = next_exception_ = 0;
      for (int number = 0; number < kStepsPerTile; ++number) {
        if (StartStep(number)) RunStep(number, raw);
      }
      if (raw != nullptr) break;
      if (!IsIntact()) return TileState::kDrifted;
      if (!Writes() || parameter_.new_records == nullptr) break;
      Warp::Sync();
      uint8_t* log = nullptr;
      const TileRecord record = Allocate(log);
      if (log == nullptr) return TileState::kNoRoom;
      Warp::Each([&](int lane) {
        if (lane == 0) parameter_.new_records[tile_] = record;
      });
      if (record.kind == TileRecord::Kind::kLog) {
        new_log_.Copy(record, log);
        break;
      }
      raw = reinterpret_cast<Bits*>(log);
    }
    if (Writes()) WriteMerged();
    return TileState::kDone;
  }

 private:
  static GRAFT_WARP int Min(int a, int b) { return a < b ? a : b; }
  // Tiles side by side.
  static GRAFT_WARP uint32_t Across(const SwitchParameter& parameter) {
    return static_cast<uint32_t>((parameter.cols + kWarpTileCols - 1) /
                                 kWarpTileCols);
  }

  // Whether the tile becomes what the scratch holds in the end.
  GRAFT_WARP bool Writes() const {
    return parameter_.extract == nullptr && parameter_.sums == nullptr &&
           parameter_.merged == nullptr;
  }

  // False if the step lies beyond the tile.
  GRAFT_WARP bool StartStep(int number) {
    const int row = number / kStepsAcross * kStepRows;
    const int col = number % kStepsAcross * kStepCols;
    step_.row = row_ + row;
    step_.col = col_ + col;
    return row < rows_ && col < cols_;
  }

  GRAFT_WARP void RunStep(int number, Bits* raw) {
    Weights weights;
    Load(weights);
    if (parameter_.merged == nullptr) {
      GetPristine(number, weights);
      if (raw != nullptr) {
        StoreRaw(number, weights, raw);
        return;
      }
      sums_.Add(step_.row - row_, step_.col - col_, weights);
    }
    if (Writes()) {
      Merge(number, weights);
    } else if (parameter_.sums == nullptr) {
      Store(weights, parameter_.extract != nullptr ? parameter_.extract
                                                   : parameter_.live);
    }
  }

  // ---- Between memory and registers -----------------------------------------

  GRAFT_WARP bool IsVector() const { return vectors_ && step_.whole(); }

  // What lies beyond the parameter is zero.
  GRAFT_WARP void Load(Weights& weights) const {
    const auto* const from = static_cast<const Bits*>(source_);
    Warp::Each([&](int lane) {
      Bits* const to = weights[lane].v;
      if (IsVector()) {
        LoadEight(from + step_.PlaceOf(lane, 0), to);
        LoadEight(from + step_.PlaceOf(lane, 8), to + 8);
        return;
      }
      const uint32_t valid = step_.Valid(lane);
#pragma unroll 1
      for (int i = 0; i < kLaneElements; ++i) {
        SetElement(
            i, (valid >> i & 1u) != 0 ? from[step_.PlaceOf(lane, i)] : Bits{0},
            to);
      }
    });
  }

  GRAFT_WARP void Store(const Weights& weights, void* matrix) const {
    auto* const to = static_cast<Bits*>(matrix);
    Warp::Each([&](int lane) {
      const Bits* const from = weights[lane].v;
      if (IsVector()) {
        StoreEight(from, to + step_.PlaceOf(lane, 0));
        StoreEight(from + 8, to + step_.PlaceOf(lane, 8));
        return;
      }
      const uint32_t valid = step_.Valid(lane);
#pragma unroll 1
      for (int i = 0; i < kLaneElements; ++i) {
        if ((valid >> i & 1u) != 0) {
          to[step_.PlaceOf(lane, i)] = GetElement(i, from);
        }
      }
    });
  }

  static GRAFT_WARP void LoadEight(const Bits* from, Bits* to) {
#pragma unroll
    for (int i = 0; i < 8; i += 16 / sizeof(Bits)) {
      Warp::Load16(from + i, to + i);
    }
  }

  static GRAFT_WARP void StoreEight(const Bits* from, Bits* to) {
#pragma unroll
    for (int i = 0; i < 8; i += 16 / sizeof(Bits)) {
      Warp::Store16(from + i, to + i);
    }
  }

  // Eight elements of a lane in a tile that is laid out step by step.
  static GRAFT_WARP int PlaceInTile(int number, int lane, int row) {
    return number * kStepElements + (row * kLanes + lane) * 8;
  }

  GRAFT_WARP void Prepare() {
    Warp::Each([&](int lane) {
      // A row of the tile per lane: all of it is under way before the first
      // step wants it.
      if (lane >= rows_) return;
      const Bits* const row = static_cast<const Bits*>(source_) +
                              static_cast<int64_t>(row_ + lane) * step_.cols +
                              col_;
      for (int i = 0; i < cols_; i += 64 / sizeof(Bits))
        Warp::Prefetch(row + i);
    });
    Warp::Sync();
    if (parameter_.old_records != nullptr) {
      log_ = ReadWarpLog<Bits>(parameter_.old_records[tile_], launch_.old_log);
    }
  }

  // ---- W0 -------------------------------------------------------------------

  // From what lies in memory.
  GRAFT_WARP void GetPristine(int number, Weights& weights) {
    if (parameter_.pristine != nullptr || parameter_.num_old_terms == 0) return;
    if (log_.record.kind == TileRecord::Kind::kRaw) {
      ReadRaw(number, weights);
    } else {
      Restore(number, weights);
    }
  }

  GRAFT_WARP void ReadRaw(int number, Weights& w0) const {
    const auto* const raw = reinterpret_cast<const Bits*>(log_.codes);
    Warp::Each([&](int lane) {
      LoadEight(raw + PlaceInTile(number, lane, 0), w0[lane].v);
      LoadEight(raw + PlaceInTile(number, lane, 1), w0[lane].v + 8);
    });
  }

  GRAFT_WARP void Restore(int number, Weights& w0) {
    Floats d;
    SumTerms<Warp>(launch_.terms + parameter_.old_terms,
                   parameter_.num_old_terms, step_, d);
    Counts candidates, counts;
    Warp::Each([&](int lane) {
      uint32_t mask = 0;
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        const Bits m = w0[lane].v[i];
        const Bits r = Weight::Round(Weight::Widen(m) - d[lane].v[i]);
        mask |= static_cast<uint32_t>(IsCandidate<Weight>(m, r, d[lane].v[i]))
                << i;
        w0[lane].v[i] = r;
      }
      if (!step_.whole()) {
        const uint32_t valid = step_.Valid(lane);
        mask &= valid;
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) {
          if ((valid >> i & 1u) == 0) w0[lane].v[i] = 0;
        }
      }
      candidates[lane] = mask;
      counts[lane] = Warp::CountBits(mask);
    });
    const uint32_t total = Warp::ScanExclusive(counts);
    Warp::Each([&](int lane) {
      ApplyCodes(candidates[lane], next_code_ + counts[lane], w0[lane].v);
    });
    next_code_ += total;
    PatchExceptions(number, w0);
  }

  GRAFT_WARP void ApplyCodes(uint32_t candidates, uint32_t at, Bits* w0) const {
    if (candidates == 0) return;
    uint32_t word = log_.codes[at / kCodesPerWord];
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) {
      if ((candidates >> i & 1u) == 0) continue;
      const uint32_t code = word >> (at % kCodesPerWord * 4) & 15u;
      w0[i] = static_cast<Bits>(w0[i] + ((code ^ 8u) - 8u));
      if (++at % kCodesPerWord == 0 && candidates >> (i + 1) != 0) {
        word = log_.codes[at / kCodesPerWord];
      }
    }
  }

  GRAFT_WARP void PatchExceptions(int number, Weights& w0) {
    while (next_exception_ < log_.record.num_exceptions) {
      const int position = log_.positions[next_exception_];
      if (position / kStepElements != number) return;
      const Bits value = log_.values[next_exception_++];
      Warp::Each([&](int lane) {
        if (position % kStepElements / kLaneElements != lane) return;
        SetElement(position % kLaneElements, value, w0[lane].v);
      });
    }
  }

  // ---- The checksum ---------------------------------------------------------

  GRAFT_WARP bool IsIntact() const {
    if (parameter_.sums == nullptr && parameter_.checksums == nullptr) {
      return true;
    }
    const uint64_t checksum = sums_.Fold();
    if (parameter_.sums != nullptr) {
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

  GRAFT_WARP void Merge(int number, const Weights& w0) {
    if (parameter_.num_new_terms == 0) {
      Stage(number, w0);
      return;
    }
    Floats d;
    SumTerms<Warp>(launch_.terms + parameter_.new_terms,
                   parameter_.num_new_terms, step_, d);
    Weights merged;
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        merged[lane].v[i] =
            Weight::Round(Weight::Widen(w0[lane].v[i]) + d[lane].v[i]);
      }
    });
    Stage(number, merged);
    if (parameter_.new_records != nullptr) Log(number, w0, d, merged);
  }

  GRAFT_WARP void Stage(int number, const Weights& weights) {
    Warp::Each([&](int lane) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        Bits* const to = scratch_.merged + PlaceInTile(number, lane, row);
#pragma unroll
        for (int i = 0; i < 8; ++i) to[i] = weights[lane].v[row * 8 + i];
      }
    });
  }

  GRAFT_WARP void Log(int number, const Weights& w0, const Floats& d,
                      const Weights& merged) {
    Counts exceptions, counts;
    typename Warp::template Lanes<uint64_t> codes;
    Warp::Each([&](int lane) {
      const uint32_t valid = step_.whole() ? 0xffffu : step_.Valid(lane);
      uint64_t packed = 0;
      uint32_t num_codes = 0, outside = 0;
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        const Bits m = merged[lane].v[i];
        const Bits r = Weight::Round(Weight::Widen(m) - d[lane].v[i]);
        const Bits difference = static_cast<Bits>(w0[lane].v[i] - r);
        const bool candidate =
            (valid >> i & 1u) != 0 && IsCandidate<Weight>(m, r, d[lane].v[i]);
        const bool fits =
            static_cast<Bits>(difference + kMaxCode) <= 2 * kMaxCode;
        if (candidate) {
          packed |= uint64_t{difference & 15u} << (num_codes++ * 4);
        }
        outside |= static_cast<uint32_t>(candidate ? !fits : difference != 0)
                   << i;
      }
      codes[lane] = packed;
      counts[lane] = num_codes;
      exceptions[lane] = outside & valid;
    });
    new_log_.Append(number, codes, counts, exceptions, w0);
  }

  // ---- The writes -----------------------------------------------------------

  // A place for the log, or for all W0 if that is smaller; `log` stays null if
  // there is none.
  GRAFT_WARP TileRecord Allocate(uint8_t*& log) const {
    uint32_t bytes = 0;
    TileRecord record = new_log_.Describe(bytes);
    record.offset = Warp::Add(&launch_.summary->log_bytes,
                              static_cast<unsigned long long>(bytes));
    if (record.offset + bytes <= launch_.new_log_capacity) {
      log = launch_.new_log + record.offset;
    } else {
      Warp::Add(&launch_.summary->missing_bytes,
                static_cast<unsigned long long>(bytes));
    }
    return record;
  }

  static GRAFT_WARP void StoreRaw(int number, const Weights& w0, Bits* raw) {
    Warp::Each([&](int lane) {
      StoreEight(w0[lane].v, raw + PlaceInTile(number, lane, 0));
      StoreEight(w0[lane].v + 8, raw + PlaceInTile(number, lane, 1));
    });
  }

  GRAFT_WARP void WriteMerged() {
    Warp::Sync();
    for (int number = 0; number < kStepsPerTile; ++number) {
      if (!StartStep(number)) continue;
      Weights merged;
      Warp::Each([&](int lane) {
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) {
          merged[lane].v[i] =
              scratch_.merged[PlaceInTile(number, lane, i / 8) + i % 8];
        }
      });
      Store(merged, parameter_.live);
    }
  }

  const SwitchLaunch& launch_;
  const SwitchParameter& parameter_;
  const uint64_t tile_;
  WarpScratch<Bits>& scratch_;
  const int row_;  // the tile
  const int col_;
  const int rows_;
  const int cols_;
  const void* const source_;  // what a step begins with
  const bool vectors_;        // rows begin where Load16 may read

  WarpStep step_;           // at hand
  WarpLog<Bits> log_ = {};  // the old one
  uint32_t next_code_ = 0;
  uint32_t next_exception_ = 0;
  WarpChecksum<Warp, Bits> sums_;
  WarpLogWriter<Warp, Bits> new_log_;
};

// The parameter that tile number `tile` of a launch belongs to.
GRAFT_WARP const SwitchParameter& FindParameter(const SwitchLaunch& launch,
                                                uint64_t tile) {
  uint32_t first = 0, last = launch.num_parameters - 1;
  while (first < last) {
    const uint32_t middle = (first + last + 1) / 2;
    if (launch.parameters[middle].first_tile <= tile) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return launch.parameters[first];
}

// Tile number `tile` of a launch, if it is pending and its parameter has this
// dtype.
template <class Warp, class Weight>
GRAFT_WARP void RunWarpTile(const SwitchLaunch& launch, WeightDtype dtype,
                            uint64_t tile,
                            WarpScratch<typename Weight::Bits>& scratch) {
  if (tile >= launch.num_tiles || launch.states[tile] != launch.pending) return;
  const SwitchParameter& parameter = FindParameter(launch, tile);
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
