#ifndef GRAFT_TESTS_BENCH_LOAD_WORKLOAD_H_
#define GRAFT_TESTS_BENCH_LOAD_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "graft/v1/generation.pb.h"
#include "tests/bench/load/random_source.h"
#include "tests/bench/load/zipf.h"

namespace graft::load {

// A kind of image, and how often it is wanted relative to the others.
struct ImageKind {
  uint32_t width = 128;
  uint32_t height = 128;
  uint32_t steps = 20;
  uint32_t count = 1;
  double share = 1;
};

// "WIDTHxHEIGHT:STEPS[:COUNT[:SHARE]]".
absl::StatusOr<ImageKind> ParseImageKind(absl::string_view text);

// Draws requests at random: their kind by share, their adapter by popularity,
// prompt and seed anew each time. The same seed gives the same requests.
class Workload {
 public:
  struct Options {
    std::vector<ImageKind> kinds = {ImageKind()};
    // The most popular first; empty: the base alone.
    std::vector<std::string> adapters = {};
    double zipf_exponent = 1;
    float guidance_scale = 2;
    uint64_t seed = 0;
  };

  // REQUIRES: at least one kind has a positive share.
  explicit Workload(Options options);

  v1::GenerateImageRequest Next();

 private:
  const ImageKind& DrawKind();

  const Options options_;
  const Zipf popularity_;
  RandomSource random_;
};

}  // namespace graft::load

#endif  // GRAFT_TESTS_BENCH_LOAD_WORKLOAD_H_
