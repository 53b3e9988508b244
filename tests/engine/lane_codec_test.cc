#include "server/engine/cuda/lane_codec.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

namespace graft {
namespace {

// W0 of a lane's weights from what Encode says of them, whatever they and D
// are: any bits, NaN included, and D of any size beside them or nearly -W0.
template <class Weight>
void ExpectEveryLaneRestored() {
  using Codec = LaneCodec<Weight>;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int n = 0; n < 200000; ++n) {
    typename Codec::Words w0 = {}, merged;
    LaneDelta d;
    d.c = n % 3 == 0 ? 1 : -0.3F;
    // Most alike, as all of a lane are coded anew where one is far.
    const auto common = static_cast<uint32_t>(random());
    for (int i = 0; i < kLaneElements; ++i) {
      const bool odd = random() % 8 == 0;
      const uint32_t bits = odd ? static_cast<uint32_t>(random())
                                : common ^ static_cast<uint32_t>(random() % 64);
      Codec::Set(i, static_cast<typename Weight::Bits>(bits), w0);
      const float value =
          Weight::Widen(static_cast<typename Weight::Bits>(Codec::Get(w0, i)));
      const float sizes[] = {0.01F, 0.3F, -1, 1, 3, 1e4F};
      const float size = sizes[random() % 6];
      d.p[i] = (n % 5 == 4 ? normal(random)
                : size < 0 ? -value * (1 + 0.01F * normal(random))
                           : value * size * normal(random)) /
               d.c;
    }
    Codec::Add(w0, d, merged);
    const uint32_t valid = n % 2 == 0 ? ~0u : static_cast<uint32_t>(random());
    std::vector<std::pair<int, uint32_t>> exceptions;
    const LaneCodes codes = Codec::Encode(
        w0, d, merged, valid,
        [&](int i, uint32_t bits) { exceptions.emplace_back(i, bits); });
    typename Codec::Words back = merged;
    const uint32_t candidates = Codec::Subtract(d, back) & valid;
    ASSERT_EQ(BitCount(candidates), codes.count);
    Codec::ApplyCodes(candidates, codes.bits, back);
    for (const auto& [i, bits] : exceptions) Codec::Set(i, bits, back);
    for (int i = 0; i < kLaneElements; ++i) {
      if ((valid & Codec::Mask(i)) == 0) continue;
      ASSERT_EQ(Codec::Get(back, i), Codec::Get(w0, i))
          << "lane " << n << " element " << i;
    }
  }
}

TEST(LaneCodecTest, SaysEveryBit) {
  ExpectEveryLaneRestored<Float32Weight>();
  ExpectEveryLaneRestored<BFloat16Weight>();
  ExpectEveryLaneRestored<Float16Weight>();
}

}  // namespace
}  // namespace graft
