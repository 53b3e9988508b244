#include "server/engine/cuda/cuda_kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace graft {
namespace {

// Needs no GPU: a build with nvcc finds its own library, and one without says
// what to do.
TEST(CudaKernelsTest, LibraryIsThereOrThereIsAReason) {
#ifdef GRAFT_CUDA
  EXPECT_EQ(CudaKernelsProblem(), "");
#else
  EXPECT_THAT(CudaKernelsProblem(),
              ::testing::HasSubstr("-DGRAFT_ENABLE_CUDA=ON"));
#endif
}

}  // namespace
}  // namespace graft
