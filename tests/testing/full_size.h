#ifndef GRAFT_TESTS_TESTING_FULL_SIZE_H_
#define GRAFT_TESTS_TESTING_FULL_SIZE_H_

#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/numbers.h"

namespace graft {

// How often a test does something: `in_ci`, unless the environment's `variable`
// asks for the full size. CONTRIBUTING.md lists these.
inline int SizeOfTest(const char* variable, int in_ci) {
  const char* const text = std::getenv(variable);
  int size = in_ci;
  if (text != nullptr && !absl::SimpleAtoi(text, &size)) {
    ADD_FAILURE() << variable << " is not a number";
  }
  return size;
}

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_FULL_SIZE_H_
