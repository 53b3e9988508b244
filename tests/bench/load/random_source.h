#ifndef GRAFT_TESTS_BENCH_LOAD_RANDOM_SOURCE_H_
#define GRAFT_TESTS_BENCH_LOAD_RANDOM_SOURCE_H_

#include <cstdint>
#include <random>

namespace graft::load {

// Random numbers that are the same for a seed with every compiler and library,
// which the standard's distributions are not.
class RandomSource {
 public:
  explicit RandomSource(uint64_t seed) : engine_(seed) {}

  // Any 64 bits.
  uint64_t Bits() { return engine_(); }

  // In [0, 1).
  double Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_RANDOM_SOURCE_H_
