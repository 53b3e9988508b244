#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_CPU_SWITCH_PASS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_CPU_SWITCH_PASS_H_

#include <functional>
#include <memory>
#include <vector>

#include "server/engine/compute_pool.h"
#include "server/engine/weights/switch_pass.h"
#include "server/engine/weights/undo_arena.h"

namespace graft {

// Runs passes on the CPU, on as many threads as LibTorch was set to use when
// this was made.
class CpuSwitchPass : public SwitchPass {
 public:
  CpuSwitchPass();

  TileGrid Grid(const at::Tensor& parameter) const override;
  void Reserve(int max_rank, int max_terms) override;
  absl::Status ResetLog(int log,
                        absl::Span<const ParameterSwitch> parameters) override;
  int64_t log_bytes(int log) const override;
  int64_t reserved_log_bytes(int log) const override;
  void ForEach(size_t count, const std::function<void(size_t)>& f) override;
  absl::Status Run(SwitchWork& work) override;
  void Checksum(const at::Tensor& live, const TileGrid& grid,
                uint64_t* sums) override;

 private:
  // A tile of one parameter. False if W0 is not what was loaded.
  bool RunTile(const SwitchWork& work, const ParameterSwitch& parameter,
               int64_t tile, TileScratch& scratch);

  const SwitchKernels& kernels_;
  ComputePool pool_;
  UndoArena logs_[2];
  std::vector<std::unique_ptr<TileScratch>> scratch_;  // one per thread
  int max_rank_ = 0;
  int max_terms_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_CPU_SWITCH_PASS_H_
