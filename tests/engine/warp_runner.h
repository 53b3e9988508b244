#ifndef GRAFT_TESTS_ENGINE_WARP_RUNNER_H_
#define GRAFT_TESTS_ENGINE_WARP_RUNNER_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/engine/cuda/switch_launch.h"

namespace graft {

// Memory that a launch may use.
struct LaunchBuffer {
  const char* name;
  void* data;
  size_t size;
  bool writable;
};

// Who runs launches of the CUDA kernels, on the host's memory. `buffers`: all
// of it that a launch may touch, but what lies in `launch` itself.
class WarpRunner {
 public:
  virtual ~WarpRunner() = default;

  // As GraftCudaSwitch().
  virtual void Switch(const SwitchLaunch& launch, WeightDtype dtype,
                      absl::Span<const LaunchBuffer> buffers) = 0;

  // As GraftCudaSumTerms().
  virtual void SumTerms(absl::Span<const DeltaTerm> terms, int64_t rows,
                        int64_t cols, float* delta,
                        absl::Span<const LaunchBuffer> buffers) = 0;
};

// By HostWarp: the kernels' headers compiled as C++. Does not look at
// `buffers`.
class HostRunner : public WarpRunner {
 public:
  void Switch(const SwitchLaunch& launch, WeightDtype dtype,
              absl::Span<const LaunchBuffer> buffers) override;
  void SumTerms(absl::Span<const DeltaTerm> terms, int64_t rows, int64_t cols,
                float* delta, absl::Span<const LaunchBuffer> buffers) override;
};

}  // namespace graft

#endif  // GRAFT_TESTS_ENGINE_WARP_RUNNER_H_
