#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_delta.h"

// The codes are those of undo_codec.h, with -8 too, + 8. A tile's log: codes
// eight to a word, in the order of steps, lanes and the lanes' own
// (lane_codec.h); then the exceptions, in the order of steps; each of the two
// in whole quads. A tile with more exceptions than LogScratch has room for is
// kept raw: all W0, each row of a lane's elements side by side.
namespace graft {

inline constexpr uint32_t kCodesPerWord = 8;

// 16 bytes, moved at once.
struct alignas(16) Quad {
  uint32_t v[4];
};

// A weight that no code can say.
template <class Bits>
struct LogException {
  Bits place;  // step * 512 + lane * 16 + element
  Bits w0;
};

// A log in memory that the lanes share: while it is written its exceptions
// stay behind room for all codes, and are counted; while it is read they follow
// the codes.
template <class Bits>
struct alignas(16) LogScratch {
  // A kilobyte with their number: how many warps share a processor depends on
  // this memory.
  static constexpr uint32_t kMaxExceptions =
      1024 / sizeof(LogException<Bits>) - 1;

  uint32_t codes[kWarpTileElements / kCodesPerWord];
  LogException<Bits> exceptions[kMaxExceptions];
  uint32_t num_exceptions;

  GRAFT_WARP Quad* quads() { return reinterpret_cast<Quad*>(this); }
};

GRAFT_WARP uint32_t QuadsFor(uint32_t bytes) {
  return (bytes + sizeof(Quad) - 1) / sizeof(Quad);
}
GRAFT_WARP uint32_t CodeQuads(uint32_t num_codes) {
  return QuadsFor((num_codes + 1) / 2);
}
template <class Bits>
GRAFT_WARP uint32_t ExceptionQuads(uint32_t num_exceptions) {
  return QuadsFor(num_exceptions * sizeof(LogException<Bits>));
}

// The size of a log that is not raw.
template <class Bits>
GRAFT_WARP uint32_t LogBytes(uint32_t num_codes, uint32_t num_exceptions) {
  return (CodeQuads(num_codes) + ExceptionQuads<Bits>(num_exceptions)) *
         sizeof(Quad);
}

// A step's weights between the lanes' registers and memory that they share:
// [row of a lane][lane].
template <class Warp, class Words>
GRAFT_WARP void PutStep(const Words& words, Quad* to) {
  Warp::Each([&](int lane) {
    constexpr int kQuads = int{sizeof(words[lane])} / int{sizeof(Quad)};
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const uint32_t* const from = words[lane].v + 4 * i;
      const int row = i / (kQuads / 2);
      to[(row * kLanes + lane) * (kQuads / 2) + i % (kQuads / 2)] = {
          {from[0], from[1], from[2], from[3]}};
    }
  });
}
template <class Warp, class Words>
GRAFT_WARP void GetStep(const Quad* from, Words& words) {
  Warp::Each([&](int lane) {
    constexpr int kQuads = int{sizeof(words[lane])} / int{sizeof(Quad)};
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int row = i / (kQuads / 2);
      const Quad quad =
          from[(row * kLanes + lane) * (kQuads / 2) + i % (kQuads / 2)];
#pragma unroll
      for (int j = 0; j < 4; ++j) words[lane].v[4 * i + j] = quad.v[j];
    }
  });
}

// The log of the set that is left, of one tile. `Warp` as for warp_launch.h.
template <class Warp, class Bits>
class WarpLogReader {
 public:
  GRAFT_WARP explicit WarpLogReader(LogScratch<Bits>& scratch)
      : scratch_(scratch) {}

  // Brings the log to the scratch, where it is no raw one; it is there after
  // Warp::WaitForCopies() and Warp::Sync(). What no log can have is taken for
  // an empty one: the checksum then tells.
  GRAFT_WARP void Open(const TileRecord& record, const uint8_t* memory,
                       uint64_t capacity) {
    const bool raw = record.kind == TileRecord::Kind::kRaw;
    const uint32_t bytes =
        raw ? uint32_t{kWarpTileElements * sizeof(Bits)}
            : LogBytes<Bits>(record.num_codes, record.num_exceptions);
    if (record.num_codes > kWarpTileElements ||
        record.num_exceptions > LogScratch<Bits>::kMaxExceptions ||
        bytes > capacity || record.offset > capacity - bytes ||
        record.offset % sizeof(Quad) != 0) {
      return;
    }
    const uint8_t* const data = memory + record.offset;
    if (raw) {
      raw_ = reinterpret_cast<const Bits*>(data);
      return;
    }
    num_exceptions_ = record.num_exceptions;
    exceptions_ = reinterpret_cast<const LogException<Bits>*>(
        scratch_.quads() + CodeQuads(record.num_codes));
    Warp::Each([&](int lane) {
#pragma unroll 1  // one for most lanes
      for (uint32_t i = static_cast<uint32_t>(lane); i < bytes / sizeof(Quad);
           i += kLanes) {
        Warp::CopyAsync16(data + i * sizeof(Quad), scratch_.quads() + i);
      }
    });
  }

  // All of W0, or null.
  GRAFT_WARP const Bits* raw() const { return raw_; }

  // The next step's codes: R, of which these are candidates, becomes W0 but for
  // exceptions.
  template <class Codec, class Words>
  GRAFT_WARP void Apply(
      const typename Warp::template Lanes<uint32_t>& candidates, Words& words) {
    typename Warp::template Lanes<uint32_t> before;
    Warp::Each([&](int lane) { before[lane] = BitCount(candidates[lane]); });
    const uint32_t total = Warp::ScanExclusive(before);
    Warp::Each([&](int lane) {
      Codec::ApplyCodes(candidates[lane], Codes(next_code_ + before[lane]),
                        words[lane]);
    });
    next_code_ += total;
  }

  // Sets the exceptions of step `number`, `words` being W0 but for them. `room`
  // is for a step's weights, in memory that the lanes share.
  template <class Words>
  GRAFT_WARP void Patch(int number, Words& words, Quad* room) {
    while (next_exception_ < num_exceptions_) {
      typename Warp::template Lanes<bool> mine;
      Warp::Each([&](int lane) {
        const uint32_t i = next_exception_ + static_cast<uint32_t>(lane);
        mine[lane] =
            i < num_exceptions_ && exceptions_[i].place / kStepElements ==
                                       static_cast<uint32_t>(number);
      });
      const uint32_t count = Warp::CountLanes(mine);
      if (count == 0) return;
      // A lane for each of them: registers of other lanes are out of reach.
      PutStep<Warp>(words, room);
      Warp::Sync();
      Warp::Each([&](int lane) {
        if (!mine[lane]) return;
        const LogException<Bits> exception =
            exceptions_[next_exception_ + static_cast<uint32_t>(lane)];
        reinterpret_cast<Bits*>(room)[InStep(exception.place)] = exception.w0;
      });
      Warp::Sync();
      GetStep<Warp>(room, words);
      next_exception_ += count;
    }
  }

  // The same for all steps, where the tile lies in `tile` step by step.
  GRAFT_WARP void PatchTile(Quad* tile) const {
    Warp::Each([&](int lane) {
#pragma unroll 1
      for (uint32_t i = static_cast<uint32_t>(lane); i < num_exceptions_;
           i += kLanes) {
        const LogException<Bits> exception = exceptions_[i];
        const uint32_t number = exception.place / kStepElements;
        if (number >= kWarpTileElements / kStepElements) continue;
        reinterpret_cast<Bits*>(
            tile)[number * kStepElements + InStep(exception.place)] =
            exception.w0;
      }
    });
  }

  // From the first step again.
  GRAFT_WARP void Rewind() { next_code_ = next_exception_ = 0; }

 private:
  // The codes from number `at` on; where there are none, whatever is behind.
  GRAFT_WARP uint64_t Codes(uint32_t at) const {
    // Three words, wherever it begins: that is in the scratch for any number.
    static_assert(sizeof(scratch_.exceptions) >= 3 * sizeof(uint32_t));
    const uint32_t* const words = scratch_.codes + at / kCodesPerWord;
    const uint32_t shift = at % kCodesPerWord * 4;
    const uint32_t middle = words[1];
    const auto low =
        static_cast<uint32_t>((uint64_t{middle} << 32 | words[0]) >> shift);
    const auto high =
        static_cast<uint32_t>((uint64_t{words[2]} << 32 | middle) >> shift);
    return uint64_t{high} << 32 | low;
  }

  // Where PutStep puts an exception's element.
  static GRAFT_WARP uint32_t InStep(uint32_t place) {
    const uint32_t lane = place % kStepElements / kLaneElements;
    const uint32_t row = place % kLaneElements / 8;
    return (row * kLanes + lane) * 8 + place % 8;
  }

  LogScratch<Bits>& scratch_;
  const LogException<Bits>* exceptions_ = nullptr;
  const Bits* raw_ = nullptr;
  uint32_t num_exceptions_ = 0;
  uint32_t next_code_ = 0;
  uint32_t next_exception_ = 0;
};

// The log of the tile that is switched, in the warp's scratch until it has a
// place. `Warp` as for warp_launch.h.
template <class Warp, class Weight>
class WarpLogWriter {
 public:
  using Bits = typename Weight::Bits;

  GRAFT_WARP explicit WarpLogWriter(LogScratch<Bits>& scratch)
      : scratch_(scratch) {}

  // Where nothing is written there are zeros.
  GRAFT_WARP void Clear() {
    constexpr int kLaneQuads =
        int{sizeof(scratch_.codes)} / int{sizeof(Quad)} / kLanes;
    static_assert(sizeof(scratch_.codes) == kLaneQuads * kLanes * sizeof(Quad));
    Warp::Each([&](int lane) {
#pragma unroll
      for (int i = 0; i < kLaneQuads; ++i) {
        scratch_.quads()[i * kLanes + lane] = {};
      }
      if (lane == 0) scratch_.num_exceptions = 0;
    });
  }

  // Adds step `number`, which is the next one: its W0, D and what it becomes.
  // `valid(lane)`: the mask of the elements that lie in the parameter.
  template <class Words, class Deltas, class Valid>
  GRAFT_WARP void Add(int number, const Words& w0, const Deltas& d,
                      const Words& merged, const Valid& valid) {
    typename Warp::template Lanes<LaneCodes> codes;
    typename Warp::template Lanes<uint32_t> before;
    Warp::Each([&](int lane) {
      codes[lane] = LaneCodec<Weight>::Encode(
          w0[lane], d[lane], merged[lane], valid(lane),
          [&](int element, uint32_t bits) {
            Except(number, lane, element, bits);
          });
      before[lane] = codes[lane].count;
    });
    const uint32_t total = Warp::ScanExclusive(before);
    Warp::Each([&](int lane) {
      AppendCodes(codes[lane].bits, num_codes_ + before[lane]);
    });
    num_codes_ += total;
    Warp::Sync();  // exceptions stay in the order of steps
  }

  // What the log will be, but for its place, and its size.
  GRAFT_WARP TileRecord Describe(uint32_t& bytes) const {
    constexpr uint32_t kRawBytes = kWarpTileElements * sizeof(Bits);
    static_assert(sizeof(scratch_) <= kRawBytes);  // any that is not raw
    const uint32_t num_exceptions = scratch_.num_exceptions;
    TileRecord record;
    if (num_exceptions <= LogScratch<Bits>::kMaxExceptions) {
      record.kind = TileRecord::Kind::kLog;
      record.num_codes = num_codes_;
      record.num_exceptions = static_cast<uint16_t>(num_exceptions);
      bytes = LogBytes<Bits>(num_codes_, num_exceptions);
    } else {
      record.kind = TileRecord::Kind::kRaw;
      bytes = kRawBytes;
    }
    return record;
  }

  // Stores it at a multiple of 16 bytes, as `record` describes it.
  GRAFT_WARP void Store(const TileRecord& record, uint8_t* to) const {
    const uint32_t num_codes = CodeQuads(record.num_codes);
    StoreQuads(scratch_.codes, num_codes, to);
    StoreQuads(scratch_.exceptions, ExceptionQuads<Bits>(record.num_exceptions),
               to + num_codes * sizeof(Quad));
  }

  GRAFT_WARP void KeepRecord(const TileRecord& record, TileRecord& to) const {
    Warp::Each([&](int lane) {
      if (lane == 0) to = record;
    });
  }

 private:
  // Adds one lane's exception; those of a step in any order. Those that find no
  // room are counted all the same.
  GRAFT_WARP void Except(int number, int lane, int element, uint32_t w0) {
    const uint32_t at = Warp::Claim(&scratch_.num_exceptions);
    if (at >= LogScratch<Bits>::kMaxExceptions) return;
    scratch_.exceptions[at] = {
        static_cast<Bits>(number * kStepElements + lane * kLaneElements +
                          element),
        static_cast<Bits>(w0)};
  }

  GRAFT_WARP void AppendCodes(uint64_t codes, uint32_t at) {
    if (codes == 0) return;
    const uint32_t shift = at % kCodesPerWord * 4;
    const uint32_t words[] = {
        static_cast<uint32_t>(codes << shift),
        static_cast<uint32_t>(codes >> (32 - shift)),
        shift == 0 ? 0u : static_cast<uint32_t>(codes >> 32 >> (32 - shift))};
#pragma unroll
    for (uint32_t i = 0; i < 3; ++i) {
      if (words[i] != 0) {
        Warp::Or(&scratch_.codes[at / kCodesPerWord + i], words[i]);
      }
    }
  }

  static GRAFT_WARP void StoreQuads(const void* from, uint32_t count,
                                    uint8_t* to) {
    Warp::Each([&](int lane) {
#pragma unroll 1  // one for most lanes
      for (uint32_t i = static_cast<uint32_t>(lane); i < count; i += kLanes) {
        const Quad quad = static_cast<const Quad*>(from)[i];  // read at once
        Warp::Store16(&quad, to + i * sizeof(Quad));
      }
    });
  }

  LogScratch<Bits>& scratch_;
  uint32_t num_codes_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_
