#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_

#include <cstdint>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_delta.h"

// The codes are those of undo_codec.h, with -8 too. A tile's log: codes eight
// to a word, in the order of steps, lanes and the lanes' own (lane_codec.h);
// then the bits of the exceptions; then their places (uint16_t): step * 512 +
// lane * 16 + element. A tile with more than kMaxExceptions of them is kept
// raw: all W0, each row of a lane's elements side by side.
namespace graft {

inline constexpr uint32_t kMaxExceptions = 256;
inline constexpr uint32_t kCodesPerWord = 8;

// 16 bytes, moved at once.
struct alignas(16) Quad {
  uint32_t v[4];
};

// Memory that the lanes share.
template <class Bits>
struct WarpScratch {
  static constexpr uint32_t kCodeWords = kWarpTileElements / kCodesPerWord;
  // A reader of codes takes three words, wherever it begins.
  static constexpr uint32_t kOldLogQuads =
      (kCodeWords * 4 + kMaxExceptions * (sizeof(Bits) + 2)) / sizeof(Quad) + 1;

  // What the tile becomes, held back until it is known that its log has a
  // place: [step][row of a lane][lane].
  Quad merged[kWarpTileElements * sizeof(Bits) / sizeof(Quad)];
  Quad old_log[kOldLogQuads];
  // The new log.
  uint32_t num_exceptions;
  alignas(16) uint32_t codes[kCodeWords];
  Bits values[kMaxExceptions];
  uint16_t positions[kMaxExceptions];
};

GRAFT_WARP uint32_t CodeWords(uint32_t num_codes) {
  return (num_codes + kCodesPerWord - 1) / kCodesPerWord;
}

// The size of a log that is not raw; each begins at a multiple of 16.
template <class Bits>
GRAFT_WARP uint32_t LogBytes(uint32_t num_codes, uint32_t num_exceptions) {
  const uint32_t bytes = CodeWords(num_codes) * sizeof(uint32_t) +
                         num_exceptions * (sizeof(Bits) + sizeof(uint16_t));
  return (bytes + 15) / 16 * 16;
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

// The log of the set that is left, of one tile. `Warp` as for warp_tile.h.
template <class Warp, class Bits>
class WarpLogReader {
 public:
  GRAFT_WARP explicit WarpLogReader(const WarpScratch<Bits>& scratch)
      : codes_(reinterpret_cast<const uint32_t*>(scratch.old_log)) {}

  // Brings the log to the scratch, where it is no raw one; it is there after
  // Warp::WaitForCopies() and Warp::Sync(). What no log can
  // have is taken for an empty one: the checksum then tells.
  GRAFT_WARP void Open(const TileRecord& record, const uint8_t* memory,
                       uint64_t capacity, WarpScratch<Bits>& scratch) {
    const bool raw = record.kind == TileRecord::Kind::kRaw;
    const uint32_t bytes =
        raw ? uint32_t{kWarpTileElements * sizeof(Bits)}
            : LogBytes<Bits>(record.num_codes, record.num_exceptions);
    if (record.num_codes > kWarpTileElements ||
        record.num_exceptions > kMaxExceptions || bytes > capacity ||
        record.offset > capacity - bytes || record.offset % sizeof(Quad) != 0) {
      return;
    }
    const uint8_t* const data = memory + record.offset;
    if (raw) {
      raw_ = reinterpret_cast<const Bits*>(data);
      return;
    }
    num_exceptions_ = record.num_exceptions;
    values_ =
        reinterpret_cast<const Bits*>(codes_ + CodeWords(record.num_codes));
    positions_ = reinterpret_cast<const uint16_t*>(values_ + num_exceptions_);
    Warp::Each([&](int lane) {
      for (uint32_t i = static_cast<uint32_t>(lane); i < bytes / sizeof(Quad);
           i += kLanes) {
        Warp::CopyAsync16(data + i * sizeof(Quad), &scratch.old_log[i]);
      }
    });
  }

  // All of W0, or null.
  GRAFT_WARP const Bits* raw() const { return raw_; }

  // The codes from number `at` on.
  GRAFT_WARP uint64_t Codes(uint32_t at) const {
    const uint32_t* const words = codes_ + at / kCodesPerWord;
    const uint32_t shift = at % kCodesPerWord * 4;
    const uint32_t middle = words[1];
    const auto low =
        static_cast<uint32_t>((uint64_t{middle} << 32 | words[0]) >> shift);
    const auto high =
        static_cast<uint32_t>((uint64_t{words[2]} << 32 | middle) >> shift);
    return uint64_t{high} << 32 | low;
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
            i < num_exceptions_ && positions_[i] / kStepElements == number;
      });
      const uint32_t count = Warp::CountLanes(mine);
      if (count == 0) return;
      // A lane for each of them: registers of other lanes are out of reach.
      PutStep<Warp>(words, room);
      Warp::Sync();
      Warp::Each([&](int lane) {
        if (!mine[lane]) return;
        const uint32_t i = next_exception_ + static_cast<uint32_t>(lane);
        const int place = positions_[i] % kStepElements;
        const int row = place % kLaneElements / 8;
        const int owner = place / kLaneElements;
        reinterpret_cast<Bits*>(room)[(row * kLanes + owner) * 8 + place % 8] =
            values_[i];
      });
      Warp::Sync();
      GetStep<Warp>(room, words);
      next_exception_ += count;
    }
  }

  // From the first exception again.
  GRAFT_WARP void Rewind() { next_exception_ = 0; }

 private:
  const uint32_t* const codes_;
  const Bits* values_ = nullptr;
  const uint16_t* positions_ = nullptr;
  const Bits* raw_ = nullptr;
  uint32_t num_exceptions_ = 0;
  uint32_t next_exception_ = 0;
};

// The log of the tile that is switched, in the warp's scratch until it has a
// place. `Warp` as for warp_tile.h.
template <class Warp, class Weight>
class WarpLogWriter {
 public:
  using Bits = typename Weight::Bits;

  GRAFT_WARP explicit WarpLogWriter(WarpScratch<Bits>& scratch)
      : scratch_(scratch) {}

  // Where nothing is written there are zeros.
  GRAFT_WARP void Clear() {
    Warp::Each([&](int lane) {
      for (uint32_t i = static_cast<uint32_t>(lane);
           i < WarpScratch<Bits>::kCodeWords; i += kLanes) {
        scratch_.codes[i] = 0;
      }
      if (lane == 0) scratch_.num_exceptions = 0;
    });
  }

  // Adds each lane's codes of one step.
  GRAFT_WARP void Append(
      const typename Warp::template Lanes<LaneCodes>& codes) {
    typename Warp::template Lanes<uint32_t> before;
    Warp::Each([&](int lane) { before[lane] = codes[lane].count; });
    const uint32_t total = Warp::ScanExclusive(before);
    Warp::Each([&](int lane) {
      AppendCodes(codes[lane].bits, num_codes_ + before[lane]);
    });
    num_codes_ += total;
  }

  // Adds one lane's exception; those of a step in any order. Those that find no
  // room are counted all the same.
  GRAFT_WARP void Except(int number, int lane, int element, uint32_t w0) {
    const uint32_t at = Warp::Claim(&scratch_.num_exceptions);
    if (at >= kMaxExceptions) return;
    scratch_.positions[at] = static_cast<uint16_t>(
        number * kStepElements + lane * kLaneElements + element);
    scratch_.values[at] = static_cast<Bits>(w0);
  }

  // What the log will be, but for its place, and its size.
  GRAFT_WARP TileRecord Describe(uint32_t& bytes) const {
    constexpr uint32_t kRawBytes = kWarpTileElements * sizeof(Bits);
    const uint32_t num_exceptions = scratch_.num_exceptions;
    TileRecord record;
    bytes = LogBytes<Bits>(num_codes_, num_exceptions);
    if (num_exceptions <= kMaxExceptions && bytes <= kRawBytes) {
      record.kind = TileRecord::Kind::kLog;
      record.num_codes = num_codes_;
      record.num_exceptions = static_cast<uint16_t>(num_exceptions);
    } else {
      record.kind = TileRecord::Kind::kRaw;
      bytes = kRawBytes;
    }
    return record;
  }

  GRAFT_WARP void Copy(const TileRecord& record, uint8_t* to) const {
    auto* const codes = reinterpret_cast<uint32_t*>(to);
    auto* const values =
        reinterpret_cast<Bits*>(codes + CodeWords(record.num_codes));
    auto* const positions =
        reinterpret_cast<uint16_t*>(values + record.num_exceptions);
    Warp::Each([&](int lane) {
      for (uint32_t i = static_cast<uint32_t>(lane);
           i < CodeWords(record.num_codes); i += kLanes) {
        codes[i] = scratch_.codes[i];
      }
      for (uint32_t i = static_cast<uint32_t>(lane); i < record.num_exceptions;
           i += kLanes) {
        values[i] = scratch_.values[i];
        positions[i] = scratch_.positions[i];
      }
    });
  }

 private:
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

  WarpScratch<Bits>& scratch_;
  uint32_t num_codes_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_
