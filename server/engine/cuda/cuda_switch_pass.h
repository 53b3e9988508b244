#ifndef GRAFT_SERVER_ENGINE_CUDA_CUDA_SWITCH_PASS_H_
#define GRAFT_SERVER_ENGINE_CUDA_CUDA_SWITCH_PASS_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/cuda/switch_launch.h"
#include "server/engine/weights/switch_pass.h"

namespace graft {

// Runs passes on one CUDA device: one launch for all tiles (per weight type),
// and one for those that cannot go the plain way, one synchronisation, and
// memory only where a table or a log outgrows what is there.
class CudaSwitchPass : public SwitchPass {
 public:
  explicit CudaSwitchPass(at::Device device);

  TileGrid Grid(const at::Tensor& parameter) const override;
  void Reserve(int, int) override {}  // a warp's sums are its registers
  absl::Status ResetLog(int log,
                        absl::Span<const ParameterSwitch> parameters) override;
  int64_t log_bytes(int log) const override;
  int64_t reserved_log_bytes(int log) const override;
  absl::Status Run(SwitchWork& work) override;
  void Checksum(const at::Tensor& live, const TileGrid& grid,
                uint64_t* sums) override;

 private:
  // Memory that one set's undo log lies in.
  struct Log {
    at::Tensor memory;
    uint64_t used = 0;
    uint64_t capacity() const { return static_cast<uint64_t>(memory.numel()); }
  };

  // What a launch is told, as it lies in the device's memory.
  struct Tables {
    std::vector<SwitchParameter> parameters;
    std::vector<DeltaTerm> terms;
    std::vector<TileState> states;  // empty: all are pending
    uint64_t num_tiles = 0;
  };
  static Tables MakeTables(const SwitchWork& work);

  // Memory of at least `bytes` bytes: the one that was there if it is enough,
  // else another with other contents.
  uint8_t* Grow(at::Tensor& memory, uint64_t bytes, bool on_host) const;
  // Room for `bytes` more; what was there stays.
  void Extend(Log& log, uint64_t bytes) const;

  // Brings a launch's tables to the device, with `summary` as what was done
  // before.
  SwitchLaunch Upload(const Tables& tables, const SwitchSummary& summary);
  // Launches, and waits for it.
  SwitchSummary Launch(const SwitchLaunch& launch, const Tables& tables);
  // Launches until every log has a place.
  SwitchSummary LaunchAll(SwitchLaunch launch, const Tables& tables,
                          const Log& old_log, Log& new_log);
  // What became of the tiles. Without it nobody could tell how to get the
  // weights back: ends the process if the device does not say, unless it is
  // lost (IsDeviceLost), and the weights with it.
  absl::StatusOr<std::vector<TileState>> ReadStates(uint64_t num_tiles);
  // Sees to it that Upload allocates nothing for tables of that many bytes
  // behind the summary, and that many tiles.
  void ReserveTables(uint64_t bytes, uint64_t num_tiles);

  const at::Device device_;
  Log logs_[2];
  // Of the launch at hand, kept for the next one: in pinned memory, and on the
  // device.
  at::Tensor host_tables_;
  at::Tensor tables_;
  at::Tensor host_states_;
  at::Tensor states_;
  at::Tensor rest_;  // on the device alone, as the numbers of tiles
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_CUDA_CUDA_SWITCH_PASS_H_
