#ifndef GRAFT_TESTS_ENGINE_PTX_MACHINE_H_
#define GRAFT_TESTS_ENGINE_PTX_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tests/engine/ptx/lane.h"
#include "tests/engine/ptx/memory.h"
#include "tests/engine/ptx/module.h"

namespace graft::ptx {

struct LaunchSize {
  uint32_t blocks = 0;
  uint32_t threads = 0;  // of a block, in whole warps
  size_t shared_bytes = 0;
};

// Runs the kernels of a module: blocks one after the other, and a block's
// warps, in ascending order. The lanes of a warp are threads of their own: one
// runs until it comes to an instruction at which lanes meet, or exits; then the
// next one, in an order that changes all the time. When all have stopped they
// have to stand at the same instruction, or all have to have exited. So
// whatever lanes tell each other without meeting shows, as a race in shared
// memory (SharedMemory tells which) or by other bits.
//
// An access takes effect when it is made, but for copies: that a device may let
// those of several lanes take effect in another order until the next
// bar.warp.sync shows as a race alone, and not at all where they are atomic or
// in global memory. Thread-compatible.
class Machine {
 public:
  // `seed`: of the lanes' order and of what is in shared memory before anybody
  // has written there.
  Machine(Module module, uint32_t seed);

  // By their (mangled) names.
  const std::map<std::string, Function>& functions() const {
    return module_.functions;
  }

  // `arguments`: one pointer to each parameter's value. An error names the
  // line, the lane and the address.
  absl::Status Run(const Function& kernel, const LaunchSize& size,
                   const void* const* arguments, GlobalMemory& memory);

 private:
  void StartWarp(const Function& kernel, uint32_t warp,
                 const void* const* arguments);
  std::string RunWarp();
  Outcome RunUntilStop(Lane& lane) const;
  std::string Meet();
  void ChangeOrder();
  std::string Where(const Lane& lane) const;

  const Module module_;
  std::mt19937 random_;
  // What registers held they still hold when the next warp starts.
  std::vector<uint8_t> frames_;
  std::vector<Lane> lanes_;
  uint32_t order_[kWarpLanes];
  int turn_ = 0;
};

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_MACHINE_H_
