#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/fuzz_target.h"

namespace graft {

void FuzzFailure(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
  std::abort();
}

}  // namespace graft
