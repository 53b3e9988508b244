#include "server/engine/torch_status.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

#include "server/common/error.h"
#include "server/engine/device_lost.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

absl::Status StatusOfCudaError(int code) {
  return CatchTorchErrors([code]() -> absl::Status {
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, code, "CUDA");
  });
}

TEST(TorchStatusTest, ADeviceThatIsLostIsToldFromACallThatFailed) {
  constexpr int kInvalidValue = 1, kIllegalAddress = 700, kEcc = 214;
  EXPECT_FALSE(IsDeviceLost(StatusOfCudaError(kInvalidValue)));
  for (const int code : {kIllegalAddress, kEcc}) {
    const absl::Status status = StatusOfCudaError(code);
    EXPECT_TRUE(IsDeviceLost(status));
    EXPECT_THAT(status, HasReason(ErrorReason::kInternal));
  }
  EXPECT_FALSE(IsDeviceLost(absl::OkStatus()));
  EXPECT_FALSE(IsDeviceLost(absl::InternalError("of somebody else")));
}

TEST(TorchStatusTest, MemoryThatIsNotThereIsToldFromOtherErrors) {
  constexpr int kCudaOutOfMemory = 2;
  EXPECT_THAT(StatusOfCudaError(kCudaOutOfMemory),
              HasReason(ErrorReason::kGpuOutOfMemory));
  for (const char* const what :
       {"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        "GET was unable to find an engine to execute this computation"}) {
    EXPECT_THAT(CatchTorchErrors(
                    [what]() -> absl::Status { TORCH_CHECK(false, what); }),
                HasReason(ErrorReason::kGpuOutOfMemory));
  }
  EXPECT_THAT(
      CatchTorchErrors([]() -> absl::Status { throw std::bad_alloc(); }),
      HasReason(ErrorReason::kGpuOutOfMemory));
  EXPECT_THAT(
      CatchTorchErrors([]() -> absl::Status { throw std::runtime_error("x"); }),
      HasReason(ErrorReason::kInternal));
}

}  // namespace
}  // namespace graft
