#ifndef GRAFT_TESTS_ENGINE_HOST_WARP_H_
#define GRAFT_TESTS_ENGINE_HOST_WARP_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "server/engine/cuda/warp_delta.h"
#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {

// A warp for the CUDA kernels' headers, compiled as C++. Lanes one after the
// other, in an order that changes: between the calls of Each() that is what a
// device does, as lanes do not see each other's values but through the
// functions below. Copies are made when they are waited for, no sooner.
struct HostWarp {
  template <class T>
  struct Lanes {
    T value[kLanes];
    T& operator[](int lane) { return value[lane]; }
    const T& operator[](int lane) const { return value[lane]; }
  };

  template <class F>
  static void Each(F&& f) {
    // Upwards, downwards, and in strides.
    static unsigned turn = 0;
    turn = (turn + 1) % 3;
    for (int i = 0; i < kLanes; ++i) {
      f(turn == 0 ? i : turn == 1 ? kLanes - 1 - i : (i * 11 + 5) % kLanes);
    }
  }

  static void Load16(const void* from, void* to) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(from) % 16, 0u);
    std::memcpy(to, from, 16);
  }
  static void Store16(const void* from, void* to) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(to) % 16, 0u);
    std::memcpy(to, from, 16);
  }
  static void Prefetch(const void*) {}

  static float Widen(FactorFormat format, uint32_t pair, int half) {
    const auto bits = static_cast<uint16_t>(pair >> (16 * half));
    return format == FactorFormat::kFloat16 ? Float16Weight::Widen(bits)
                                            : BFloat16Weight::Widen(bits);
  }

  // As PTX defines the registers of mma.sync.m16n8k16.
  template <FactorFormat kFormat, bool kAdd>
  static void Multiply(const Lanes<UpFragment>& a, const Lanes<DownFragment>& b,
                       Lanes<ProductSums>& c) {
    for (int product = 0; product < 4; ++product) {
      for (int row = 0; row < 16; ++row) {
        for (int col = 0; col < 8; ++col) {
          float& sum =
              c[row % 8 * 4 + col / 2].v[product * 4 + row / 8 * 2 + col % 2];
          if (!kAdd) sum = 0;
          for (int k = 0; k < 16; ++k) {
            const float up =
                Widen(kFormat,
                      a[row % 8 * 4 + k % 8 / 2].v[k / 8 * 2 + row / 8], k % 2);
            const float down = Widen(
                kFormat, b[col * 4 + k % 8 / 2].v[product * 2 + k / 8], k % 2);
            sum = std::fma(up, down, sum);
          }
        }
      }
    }
  }

  static void Sync() {}
  static void CopyAsync16(const void* from, void* to) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(from) % 16, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(to) % 16, 0u);
    std::memset(to, 0x5a, 16);  // whoever does not wait reads that
    copies.emplace_back(from, to);
  }
  static void WaitForCopies() {
    for (const auto& [from, to] : copies) std::memcpy(to, from, 16);
    copies.clear();
  }
  // From where to where, not made yet.
  static inline std::vector<std::pair<const void*, void*>> copies;

  static uint32_t CountLanes(const Lanes<bool>& x) {
    uint32_t count = 0;
    for (const bool value : x.value) count += value ? 1 : 0;
    return count;
  }
  static uint32_t ScanExclusive(Lanes<uint32_t>& x) {
    uint32_t sum = 0;
    for (uint32_t& value : x.value) {
      const uint32_t own = value;
      value = sum;
      sum += own;
    }
    return sum;
  }
  static uint64_t Sum(const Lanes<uint64_t>& x) {
    uint64_t sum = 0;
    for (const uint64_t value : x.value) sum += value;
    return sum;
  }
  static uint32_t Claim(uint32_t* counter) { return (*counter)++; }
  static void Or(uint32_t* word, uint32_t bits) { *word |= bits; }
  template <class T>
  static T Add(T* counter, T value) {
    const T before = *counter;
    *counter += value;
    return before;
  }
};

}  // namespace graft

#endif  // GRAFT_TESTS_ENGINE_HOST_WARP_H_
