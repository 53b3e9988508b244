#ifndef GRAFT_TESTS_FUZZ_FUZZ_TARGET_H_
#define GRAFT_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What every fuzz target defines. With GRAFT_BUILD_FUZZERS libFuzzer drives it,
// else replay_test.cc does, as a test.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace graft {

struct FuzzTarget {
  // Inputs to begin with: good ones, so that mutants get deep, and every one
  // that has failed.
  std::vector<std::string> seeds;
  // What means something to the format, for mutants and libFuzzer's dictionary.
  std::vector<std::string> words;
  size_t max_bytes = 4096;  // of an input
  int mutants = 20000;      // that the test takes; fewer where it writes files
};

FuzzTarget DescribeFuzzTarget();

// Ends the process, as every failure of a fuzz target does.
[[noreturn]] void FuzzFailure(const char* condition, const char* file,
                              int line);

}  // namespace graft

#define GRAFT_FUZZ_CHECK(condition) \
  ((condition) ? void() : ::graft::FuzzFailure(#condition, __FILE__, __LINE__))

#endif  // GRAFT_TESTS_FUZZ_FUZZ_TARGET_H_
