#include "tests/bench/load/zipf.h"

#include <algorithm>
#include <cmath>

namespace graft::load {

Zipf::Zipf(size_t n, double exponent) {
  up_to_.reserve(n);
  double sum = 0;
  for (size_t rank = 0; rank < n; ++rank) {
    sum += std::pow(static_cast<double>(rank + 1), -exponent);
    up_to_.push_back(sum);
  }
  for (double& probability : up_to_) probability /= sum;
}

size_t Zipf::Draw(RandomSource& random) const {
  // The last one is exactly 1, which no draw reaches.
  return std::upper_bound(up_to_.begin(), up_to_.end(), random.Uniform()) -
         up_to_.begin();
}

double Zipf::Probability(size_t rank) const {
  return rank == 0 ? up_to_[0] : up_to_[rank] - up_to_[rank - 1];
}

}  // namespace graft::load
