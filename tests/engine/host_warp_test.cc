#include <gtest/gtest.h>

#include "tests/engine/warp_case.h"

namespace graft {
namespace {

WarpRunner& Runner() {
  static HostRunner runner;
  return runner;
}

INSTANTIATE_TEST_SUITE_P(HostWarp, WarpTileTest, ::testing::Values(&Runner));

}  // namespace
}  // namespace graft
