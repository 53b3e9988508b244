#ifndef GRAFT_TESTS_BENCH_LOAD_ZIPF_H_
#define GRAFT_TESTS_BENCH_LOAD_ZIPF_H_

#include <cstddef>
#include <vector>

#include "tests/bench/load/random_source.h"

namespace graft::load {

// Popularity as it is found in the wild: of n things, the one of rank r (from
// 0) is drawn with a probability proportional to (r + 1)^-exponent.
class Zipf {
 public:
  // REQUIRES: n > 0, exponent >= 0; 0: all alike.
  Zipf(size_t n, double exponent);

  // The rank of the next thing.
  size_t Draw(RandomSource& random) const;

  // That of rank `rank` is drawn.
  double Probability(size_t rank) const;

 private:
  std::vector<double> up_to_;  // probability of this rank or one before it
};

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_ZIPF_H_
