// Runs a fuzz target as an ordinary test: all seeds, and as many mutants of
// them, always the same ones, as take a few seconds at most. A failure ends the
// process.

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

// For more than usual: GRAFT_FUZZ_MUTANTS=1000000.
int NumMutants(const FuzzTarget& target) {
  const char* const text = std::getenv("GRAFT_FUZZ_MUTANTS");
  int count = 0;
  return text != nullptr && absl::SimpleAtoi(text, &count) ? count
                                                           : target.mutants;
}

class Mutator {
 public:
  explicit Mutator(const FuzzTarget& target) : target_(target) {}

  std::string Next() {
    std::string bytes = Seed();
    for (size_t i = 1 + Below(4); i > 0; --i) MutateOnce(bytes);
    if (bytes.size() > target_.max_bytes) bytes.resize(target_.max_bytes);
    return bytes;
  }

 private:
  // mt19937's own numbers are the same everywhere; distributions' are not.
  size_t Below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  const std::string& Seed() {
    return target_.seeds[Below(target_.seeds.size())];
  }

  void MutateOnce(std::string& bytes) {
    const size_t at = Below(bytes.size());
    switch (Below(7)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(Below(256));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] ^= static_cast<char>(1 << Below(8));
        break;
      case 2:
        bytes.erase(at, 1 + Below(16));
        break;
      case 3:
        bytes.insert(at, bytes.substr(Below(bytes.size()), Below(64)));
        break;
      case 4:
        bytes.insert(at, Word());
        break;
      case 5: {
        const std::string word = Word();
        bytes.replace(at, word.size(), word);
        break;
      }
      case 6: {
        const std::string& other = Seed();
        bytes.replace(at, std::string::npos, other, Below(other.size()),
                      std::string::npos);
        break;
      }
    }
  }

  std::string Word() {
    return target_.words.empty() ? ""
                                 : target_.words[Below(target_.words.size())];
  }

  const FuzzTarget& target_;
  std::mt19937 random_;
};

// A copy of exactly the right size, so that AddressSanitizer sees a read behind
// it.
void RunTarget(const std::string& input) {
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

TEST(FuzzReplayTest, SeedsAndMutantsDoNoHarm) {
  const FuzzTarget target = DescribeFuzzTarget();
  ASSERT_FALSE(target.seeds.empty());
  RunTarget("");
  for (const std::string& seed : target.seeds) RunTarget(seed);
  Mutator mutator(target);
  for (int i = NumMutants(target); i > 0; --i) RunTarget(mutator.Next());
}

}  // namespace
}  // namespace graft
