#include <bit>
#include <cmath>
#include <cstdint>

#include "tests/engine/ptx/half.h"
#include "tests/engine/ptx/opcode.h"

// Instructions that all lanes of a warp make together. bar.warp.sync alone
// orders their memory: the ISA promises that of it, and of no other one here.

namespace graft::ptx {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr char kNotAll[] = "not for all lanes of the warp";

Outcome Meet(Lane&, const Slot*) { return Outcome::kMeets; }

bool AreAllMeant(absl::Span<const Lane> lanes, Slot mask) {
  for (const Lane& lane : lanes) {
    if (lane.Get<uint32_t>(mask) != kAllLanes) return false;
  }
  return true;
}

// bar.warp.sync mask.
const char* Sync(absl::Span<Lane> lanes, const Slot* operands) {
  return AreAllMeant(lanes, operands[0]) ? nullptr : kNotAll;
}

// vote.sync.ballot.b32 d, a, mask.
const char* Ballot(absl::Span<Lane> lanes, const Slot* operands) {
  if (!AreAllMeant(lanes, operands[2])) return kNotAll;
  uint32_t votes = 0;
  for (const Lane& lane : lanes) {
    if (lane.Get<bool>(operands[1])) votes |= 1u << lane.who.lane;
  }
  for (Lane& lane : lanes) lane.Set(operands[0], votes);
  return nullptr;
}

enum class ShuffleMode { kUp, kButterfly, kIndex };

// shfl.sync.mode.b32 d|p, a, b, c, mask, word for word as the ISA describes it.
template <ShuffleMode kMode>
const char* Shuffle(absl::Span<Lane> lanes, const Slot* operands) {
  if (!AreAllMeant(lanes, operands[5])) return kNotAll;
  uint32_t values[kWarpLanes];
  for (const Lane& lane : lanes) {
    values[lane.who.lane] = lane.Get<uint32_t>(operands[2]);
  }
  for (Lane& lane : lanes) {
    const int number = lane.who.lane;
    const int b = static_cast<int>(lane.Get<uint32_t>(operands[3]) & 31u);
    const auto c = lane.Get<uint32_t>(operands[4]);
    const int clamp = static_cast<int>(c & 31u);
    const int segments = static_cast<int>(c >> 8 & 31u);
    const int least = number & segments;
    const int most = least | (clamp & ~segments);
    int from = 0;
    bool there = false;
    if (kMode == ShuffleMode::kUp) {
      from = number - b;
      there = from >= most;
    } else if (kMode == ShuffleMode::kButterfly) {
      from = number ^ b;
      there = from <= most;
    } else {
      from = least | (b & ~segments);
      there = from <= most;
    }
    if (!there) from = number;
    lane.Set(operands[0], values[from]);
    lane.Set(operands[1], static_cast<uint8_t>(there));
  }
  return nullptr;
}

struct Float16 {
  static float Widen(uint16_t bits) { return FloatFromFloat16(bits); }
};
struct BFloat16 {
  static float Widen(uint16_t bits) { return FloatFromBFloat16(bits); }
};

// mma.sync.m16n8k16 d, a, b, c: fragments as the ISA lays them out. It leaves
// order and rounding of the sums to the hardware; here they are those of
// HostWarp, in ascending order and each rounded, so that bits can be compared.
template <class Factor>
const char* Multiply(absl::Span<Lane> lanes, const Slot* operands) {
  const Slot* const d = operands;
  const Slot* const a = operands + 4;
  const Slot* const b = operands + 8;
  const Slot* const c = operands + 10;
  float left[16][16], right[16][8];  // row and column
  for (const Lane& lane : lanes) {
    const int group = lane.who.lane / 4, thread = lane.who.lane % 4;
    const auto half = [&](Slot slot, int i) {
      return Factor::Widen(
          static_cast<uint16_t>(lane.Get<uint32_t>(slot) >> (16 * i)));
    };
    for (int i = 0; i < 8; ++i) {
      const int row = group + (i / 2 % 2 == 0 ? 0 : 8);
      const int col = thread * 2 + i % 2 + (i < 4 ? 0 : 8);
      left[row][col] = half(a[i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) {
      const int row = thread * 2 + i % 2 + (i < 2 ? 0 : 8);
      right[row][group] = half(b[i / 2], i % 2);
    }
  }
  for (Lane& lane : lanes) {
    const int group = lane.who.lane / 4, thread = lane.who.lane % 4;
    float sums[4];
    for (int i = 0; i < 4; ++i) {
      const int row = group + (i < 2 ? 0 : 8);
      const int col = thread * 2 + i % 2;
      sums[i] = lane.Get<float>(c[i]);
      for (int k = 0; k < 16; ++k) {
        sums[i] = std::fma(left[row][k], right[k][col], sums[i]);
      }
      if (std::isnan(sums[i])) sums[i] = std::bit_cast<float>(kFloatNan);
    }
    for (int i = 0; i < 4; ++i) lane.Set(d[i], sums[i]);
  }
  return nullptr;
}

constexpr Opcode kOpcodes[] = {
    {"bar.warp.sync", 1, Meet, Sync, /*orders_memory=*/true},
    {"vote.sync.ballot.b32", 3, Meet, Ballot},
    {"shfl.sync.up.b32", 6, Meet, Shuffle<ShuffleMode::kUp>},
    {"shfl.sync.bfly.b32", 6, Meet, Shuffle<ShuffleMode::kButterfly>},
    {"shfl.sync.idx.b32", 6, Meet, Shuffle<ShuffleMode::kIndex>},
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 14, Meet,
     Multiply<Float16>},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 14, Meet,
     Multiply<BFloat16>},
};

}  // namespace

absl::Span<const Opcode> MeetingOpcodes() { return kOpcodes; }

}  // namespace graft::ptx
