#ifndef GRAFT_SERVER_ENGINE_CUDA_PLAIN_TILE_H_
#define GRAFT_SERVER_ENGINE_CUDA_PLAIN_TILE_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_checksum.h"
#include "server/engine/cuda/warp_delta.h"
#include "server/engine/cuda/warp_launch.h"
#include "server/engine/cuda/warp_log.h"

// The pass over one tile of the sort that nearly all are: without edges, of a
// parameter that IsPlain(), and with an old log that is not raw. Bit for bit
// what warp_tile.h makes of it, without what it does not need in its way: the
// weights come to the scratch at once, all of W0 is restored there, then all of
// it merged, and what became of it leaves from there. `Warp` as for
// warp_launch.h.
namespace graft {

// Memory that the lanes share.
template <class Bits>
struct PlainScratch {
  // [step][row of a lane][lane].
  Quad weights[kWarpTileElements * sizeof(Bits) / sizeof(Quad)];
  LogScratch<Bits> log;  // the old one, then the new one
};
static_assert(sizeof(PlainScratch<uint16_t>) == 6 * 1024);
static_assert(sizeof(PlainScratch<uint32_t>) == 10 * 1024);

// Both factors of a product, as each lane reads them for the steps of one tile.
template <class Warp>
class TileFactors {
 public:
  // `tile`: its first step.
  GRAFT_WARP void Open(const LowRankFactors& factors, const WarpStep& tile) {
    const FactorView view = FactorView(factors).At(tile);
    rank_steps_ = view.rank_steps;
    format_ = view.format;
    Warp::Each([&](int lane) {
      up_[lane] = view.up + lane * 8;
      down_[lane] = view.down + lane * 8;
    });
  }

  // The first fragments of step `number`.
  GRAFT_WARP void Load(int number, Fragments<Warp>& fragments) const {
    Load(number, 0, fragments);
  }

  // The product of step `number`, `first` being what Load() brought.
  GRAFT_WARP void Multiply(
      int number, Fragments<Warp>& first,
      typename Warp::template Lanes<ProductSums>& p) const {
    if (format_ == FactorFormat::kFloat16) {
      Multiply<FactorFormat::kFloat16>(number, first, p);
    } else {
      Multiply<FactorFormat::kBFloat16>(number, first, p);
    }
  }

 private:
  GRAFT_WARP void Load(int number, uint32_t k,
                       Fragments<Warp>& fragments) const {
    const auto row = static_cast<uint32_t>(number / kStepsAcross);
    const auto col = static_cast<uint32_t>(number % kStepsAcross);
    const uint32_t up_at = (row * rank_steps_ + k) * (kLanes * 8);
    const uint32_t down_at = (col * rank_steps_ + k) * (2 * kLanes * 8);
    Warp::Each([&](int lane) {
      fragments.Load(lane, up_[lane] + up_at, down_[lane] + down_at);
    });
  }

  template <FactorFormat kFormat>
  GRAFT_WARP void Multiply(
      int number, Fragments<Warp>& first,
      typename Warp::template Lanes<ProductSums>& p) const {
    Warp::template Multiply<kFormat, /*kAdd=*/false>(first.up, first.down, p);
#pragma unroll 1
    for (uint32_t k = 1; k < rank_steps_; ++k) {
      Load(number, k, first);
      Warp::template Multiply<kFormat, /*kAdd=*/true>(first.up, first.down, p);
    }
  }

  typename Warp::template Lanes<const uint16_t*> up_;
  typename Warp::template Lanes<const uint16_t*> down_;
  uint32_t rank_steps_ = 0;
  FactorFormat format_ = FactorFormat::kBFloat16;
};

// D of the steps of one tile, in order, where all terms are products: as
// TermSum, with what is the same in all steps kept in registers. `kSums`:
// there may be more than one, which takes more of them.
template <class Warp, bool kSums>
class TileSum {
 public:
  using Delta = typename Warp::template Lanes<LaneDelta>;

  GRAFT_WARP TileSum(const DeltaTerm* terms, uint32_t count,
                     const WarpStep& tile)
      : terms_(terms), count_(count) {
    if (count_ == 0) return;
    factors_.Open(terms_[0].first, tile);
    coefficient_ = terms_[0].coefficient;
  }

  GRAFT_WARP uint32_t count() const { return count_; }

  // Asks memory for what step 0 begins with.
  GRAFT_WARP void Prefetch() {
    if (count_ > 0) factors_.Load(0, first_);
  }

  // REQUIRES: count() > 0, and Prefetch() for step 0, then this for the one
  // before.
  GRAFT_WARP void Compute(int number, const WarpStep& step, Delta& d) {
    typename Warp::template Lanes<ProductSums> p;
    factors_.Multiply(number, first_, p);
    if (number + 1 < kStepsPerTile) factors_.Load(number + 1, first_);
    Warp::Each([&](int lane) { d[lane] = FromSums(coefficient_, p[lane]); });
    if constexpr (kSums) {
      AddTerms<Warp, /*kProducts=*/true>(terms_, count_, step, d);
    }
  }

 private:
  const DeltaTerm* const terms_;
  const uint32_t count_;
  TileFactors<Warp> factors_;  // of the first term
  float coefficient_ = 0;
  Fragments<Warp> first_;
};

// `kSums`: for launches with `sums`, too.
template <class Warp, class Weight, bool kSums>
class PlainTile {
 public:
  using Bits = typename Weight::Bits;
  using Codec = LaneCodec<Weight>;
  using Words = typename Warp::template Lanes<typename Codec::Words>;
  using Deltas = typename Warp::template Lanes<LaneDelta>;
  using Masks = typename Warp::template Lanes<uint32_t>;

  // REQUIRES: IsWhole().
  GRAFT_WARP PlainTile(const SwitchLaunch& launch,
                       const SwitchParameter& parameter, uint64_t tile,
                       PlainScratch<Bits>& scratch)
      : launch_(launch),
        parameter_(parameter),
        tile_(tile),
        scratch_(scratch),
        corner_(FirstStep(parameter, tile)) {
    Warp::Each([&](int lane) { place_[lane] = corner_.PlaceOf(lane, 0); });
  }

  // Whether the tile has no edges.
  static GRAFT_WARP bool IsWhole(const SwitchParameter& parameter,
                                 uint64_t tile) {
    const WarpStep corner = FirstStep(parameter, tile);
    return corner.row + kWarpTileRows <= corner.rows &&
           corner.col + kWarpTileCols <= corner.cols;
  }

  // All of the tile, or nothing. kPending: nothing, as one of its logs is raw.
  GRAFT_WARP TileState Run() {
    StartCopies();
    if (parameter_.checksums != nullptr) {
      Warp::Prefetch(parameter_.checksums + tile_);
    }
    if (Restores(parameter_)) {
      const TileRecord record = parameter_.old_records[tile_];
      if (record.kind == TileRecord::Kind::kRaw) {
        Warp::WaitForCopies();  // into what is the next warp's
        return TileState::kPending;
      }
      Restore(record);
    } else {
      Warp::WaitForCopies();
      Warp::Sync();
    }
    return Merge();
  }

 private:
  // ---- The tile in the scratch ----------------------------------------------

  static GRAFT_WARP int RowInTile(int number) {
    return number / kStepsAcross * kStepRows;
  }
  static GRAFT_WARP int ColInTile(int number) {
    return number % kStepsAcross * kStepCols;
  }
  GRAFT_WARP WarpStep Step(int number) const {
    WarpStep step = corner_;
    step.row += RowInTile(number);
    step.col += ColInTile(number);
    return step;
  }
  GRAFT_WARP Quad* Staged(int number) const {
    return scratch_.weights +
           number * (kStepElements * sizeof(Bits) / sizeof(Quad));
  }

  // f(lane, place in the parameter, Quad of the scratch) for each quad of a
  // step: a lane moves those that it computes with.
  template <class F>
  GRAFT_WARP void EachQuad(int number, const F& f) const {
    constexpr int kRowQuads = Codec::kWords / 2 / 4;
    constexpr int kQuadElements = sizeof(Quad) / sizeof(Bits);
    const int in_tile = RowInTile(number) * corner_.cols + ColInTile(number);
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < 2 * kRowQuads; ++i) {
        const int row = i / kRowQuads, quad = i % kRowQuads;
        f(place_[lane] + in_tile + row * 8 * corner_.cols +
              quad * kQuadElements,
          Staged(number) + (row * kLanes + lane) * kRowQuads + quad);
      }
    });
  }

  GRAFT_WARP void StartCopies() const {
    const auto* const from = static_cast<const Bits*>(
        parameter_.pristine != nullptr ? parameter_.pristine : parameter_.live);
#pragma unroll
    for (int number = 0; number < kStepsPerTile; ++number) {
      EachQuad(number, [&](int64_t place, Quad* staged) {
        Warp::CopyAsync16(from + place, staged);
      });
    }
  }

  GRAFT_WARP void StoreAll() const {
    auto* const to = static_cast<Bits*>(parameter_.live);
#pragma unroll
    for (int number = 0; number < kStepsPerTile; ++number) {
      EachQuad(number, [&](int64_t place, const Quad* staged) {
        const Quad quad = *staged;  // read at once
        Warp::Store16(&quad, to + place);
      });
    }
  }

  // ---- W0 from the merged weights -------------------------------------------

  GRAFT_WARP void Restore(const TileRecord& record) {
    WarpLogReader<Warp, Bits> log(scratch_.log);
    log.Open(record, launch_.old_log, launch_.old_log_capacity);
    TileSum<Warp, kSums> delta(launch_.terms + parameter_.old_terms,
                               parameter_.num_old_terms, corner_);
    delta.Prefetch();
    Warp::WaitForCopies();
    Warp::Sync();
#pragma unroll 1
    for (int number = 0; number < kStepsPerTile; ++number) {
      Deltas d;
      delta.Compute(number, Step(number), d);
      Words words;
      GetStep<Warp>(Staged(number), words);
      Masks candidates;
      Warp::Each([&](int lane) {
        candidates[lane] = Codec::Subtract(d[lane], words[lane]);
      });
      log.template Apply<Codec>(candidates, words);
      PutStep<Warp>(words, Staged(number));
    }
    Warp::Sync();
    log.PatchTile(scratch_.weights);
    Warp::Sync();
  }

  // ---- What W0 becomes ------------------------------------------------------

  GRAFT_WARP TileState Merge() {
    TileSum<Warp, kSums> delta(launch_.terms + parameter_.new_terms,
                               parameter_.num_new_terms, corner_);
    delta.Prefetch();
    WarpLogWriter<Warp, Weight> log(scratch_.log);
    const bool logs = parameter_.new_records != nullptr;
    if (logs) {
      log.Clear();
      Warp::Sync();
    }
#pragma unroll 1
    for (int number = 0; number < kStepsPerTile; ++number) {
      Words w0;
      GetStep<Warp>(Staged(number), w0);
      sums_.Add(w0);
      if (delta.count() == 0) continue;
      Deltas d;
      delta.Compute(number, Step(number), d);
      Words merged;
      Warp::Each(
          [&](int lane) { Codec::Add(w0[lane], d[lane], merged[lane]); });
      PutStep<Warp>(merged, Staged(number));
      if (logs) {
        log.Add(number, w0, d, merged, [](int) { return ~0u; });
      }
    }
    if (parameter_.checksums != nullptr &&
        !IsIntact<Warp>(launch_, parameter_, tile_, sums_.Fold())) {
      return TileState::kDrifted;
    }
    if (logs) {
      Warp::Sync();
      uint32_t bytes = 0;
      TileRecord record = log.Describe(bytes);
      if (record.kind == TileRecord::Kind::kRaw) return TileState::kPending;
      if (!FindRoom<Warp>(launch_, bytes, record)) return TileState::kNoRoom;
      log.KeepRecord(record, parameter_.new_records[tile_]);
      log.Store(record, launch_.new_log + record.offset);
    }
    StoreAll();
    return TileState::kDone;
  }

  const SwitchLaunch& launch_;
  const SwitchParameter& parameter_;
  const uint64_t tile_;
  PlainScratch<Bits>& scratch_;
  const WarpStep corner_;                         // the tile's first step
  typename Warp::template Lanes<int64_t> place_;  // of a lane's first element
  WarpChecksum<Warp, Weight> sums_;
};

// Tile number `tile` of a launch, if it is pending and its parameter has this
// dtype. One that has to go the general way is listed.
template <class Warp, class Weight, bool kSums>
GRAFT_WARP void RunPlainTile(const SwitchLaunch& launch, WeightDtype dtype,
                             uint64_t tile,
                             PlainScratch<typename Weight::Bits>& scratch) {
  using Tile = PlainTile<Warp, Weight, kSums>;
  if (!IsPending(launch, tile)) return;
  const SwitchParameter& parameter = FindParameter<Warp>(launch, tile);
  if (parameter.dtype != dtype) return;
  const uint64_t number = tile - parameter.first_tile;
  TileState state = TileState::kPending;
  if (parameter.plain && Tile::IsWhole(parameter, number)) {
    state = Tile(launch, parameter, number, scratch).Run();
  }
  if (state == TileState::kPending) {
    const uint32_t at = Warp::Add(&launch.summary->num_rest, 1u);
    Warp::Each([&](int lane) {
      if (lane == 0) launch.rest[at] = static_cast<uint32_t>(tile);
    });
    return;
  }
  Warp::Each([&](int lane) {
    if (lane == 0) launch.states[tile] = state;
  });
}

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_PLAIN_TILE_H_
