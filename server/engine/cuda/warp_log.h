#ifndef GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_
#define GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_

#include <cstdint>

#include "server/engine/cuda/switch_launch.h"
#include "server/engine/cuda/warp_delta.h"

// The codes are those of undo_codec.h. A tile's log: codes eight to a word, in
// the order of steps, lanes and lanes' elements; then the bits of the
// exceptions; then their places (uint16_t): step * 512 + lane * 16 + element. A
// tile with more than kMaxExceptions of them is kept raw: all W0, 8 elements of
// a lane side by side.
namespace graft {

inline constexpr uint32_t kMaxExceptions = 256;
inline constexpr uint32_t kCodesPerWord = 8;

// Memory that the lanes share: what a tile becomes, held back until it is known
// that its log has a place.
template <class Bits>
struct WarpScratch {
  alignas(16) Bits merged[kWarpTileElements];
  uint32_t codes[kWarpTileElements / kCodesPerWord];
  Bits values[kMaxExceptions];
  uint16_t positions[kMaxExceptions];
};

template <class Bits>
struct WarpLog {
  TileRecord record;
  const uint32_t* codes;
  const Bits* values;
  const uint16_t* positions;
};

GRAFT_WARP uint32_t CodeWords(uint32_t num_codes) {
  return (num_codes + kCodesPerWord - 1) / kCodesPerWord;
}

template <class Bits>
GRAFT_WARP WarpLog<Bits> ReadWarpLog(const TileRecord& record,
                                     const uint8_t* memory) {
  WarpLog<Bits> log;
  log.record = record;
  const uint8_t* const data = memory + record.offset;
  log.codes = reinterpret_cast<const uint32_t*>(data);
  log.values =
      reinterpret_cast<const Bits*>(log.codes + CodeWords(record.num_codes));
  log.positions =
      reinterpret_cast<const uint16_t*>(log.values + record.num_exceptions);
  return log;
}

// The log of the tile that is switched, in the warp's scratch until it has a
// place. `Warp` as for warp_tile.h.
template <class Warp, class Bits>
class WarpLogWriter {
 public:
  GRAFT_WARP explicit WarpLogWriter(WarpScratch<Bits>& scratch)
      : scratch_(scratch) {
    Warp::Each([&](int lane) {
      for (uint32_t i = static_cast<uint32_t>(lane);
           i < kWarpTileElements / kCodesPerWord; i += kLanes) {
        scratch_.codes[i] = 0;
      }
    });
    Warp::Sync();
  }

  // What one step adds: of each lane its codes, 4 bits each, and how many;
  // which of its elements are exceptions, and their W0.
  GRAFT_WARP void Append(
      int number, const typename Warp::template Lanes<uint64_t>& codes,
      const typename Warp::template Lanes<uint32_t>& num_codes,
      const typename Warp::template Lanes<uint32_t>& exceptions,
      const typename Warp::template Lanes<LaneElements<Bits>>& w0) {
    typename Warp::template Lanes<uint32_t> before;
    Warp::Each([&](int lane) {
      before[lane] = num_codes[lane] | Warp::CountBits(exceptions[lane]) << 16;
    });
    const uint32_t total = Warp::ScanExclusive(before);
    Warp::Each([&](int lane) {
      AppendCodes(codes[lane], num_codes_ + (before[lane] & 0xffffu));
      AppendExceptions(exceptions[lane],
                       number * kStepElements + lane * kLaneElements,
                       w0[lane].v, num_exceptions_ + (before[lane] >> 16));
    });
    num_codes_ += total & 0xffffu;
    num_exceptions_ += total >> 16;
  }

  // What the log will be, but for its place, and its size.
  GRAFT_WARP TileRecord Describe(uint32_t& bytes) const {
    constexpr uint32_t kRawBytes = kWarpTileElements * sizeof(Bits);
    TileRecord record;
    bytes = CodeWords(num_codes_) * sizeof(uint32_t) +
            num_exceptions_ * (sizeof(Bits) + sizeof(uint16_t));
    if (num_exceptions_ <= kMaxExceptions && bytes <= kRawBytes) {
      record.kind = TileRecord::Kind::kLog;
      record.num_codes = num_codes_;
      record.num_exceptions = static_cast<uint16_t>(num_exceptions_);
    } else {
      record.kind = TileRecord::Kind::kRaw;
      bytes = kRawBytes;
    }
    bytes = (bytes + 15) / 16 * 16;
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
    if (codes == 0) return;  // where nothing is written there are zeros
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

  // Those that find no room are counted all the same.
  GRAFT_WARP void AppendExceptions(uint32_t exceptions, int position,
                                   const Bits* w0, uint32_t at) {
    if (exceptions == 0) return;
#pragma unroll 1
    for (int i = 0; i < kLaneElements; ++i) {
      if ((exceptions >> i & 1u) == 0) continue;
      if (at < kMaxExceptions) {
        scratch_.positions[at] = static_cast<uint16_t>(position + i);
        scratch_.values[at] = GetElement(i, w0);
      }
      ++at;
    }
  }

  WarpScratch<Bits>& scratch_;
  uint32_t num_codes_ = 0;
  uint32_t num_exceptions_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_WARP_LOG_H_
