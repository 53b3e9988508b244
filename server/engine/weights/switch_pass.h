#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_SWITCH_PASS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_SWITCH_PASS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/engine/weights/kernels/switch_tile.h"

namespace graft {

// What of one parameter is resident, or shall be: D as a sum of terms with the
// log that undoes it; or, for changes that are functions of W0, no terms and a
// copy of W0. All that is pointed to is memory of the pass's device.
struct ParameterState {
  DeltaTerms terms;  // of the plan, which outlives the pass
  // W0 itself, laid out like the parameter, where it is kept. Then no log is
  // needed.
  const void* pristine = nullptr;
  // The merged weights, computed beforehand, which the pass copies in. Then
  // `terms` is empty.
  const void* merged = nullptr;
  // One per tile; null where W0 is kept.
  TileRecord* records = nullptr;
};

// One parameter's way from one state to another.
struct ParameterSwitch {
  absl::string_view name;  // for messages and faults
  void* live = nullptr;
  WeightDtype dtype = WeightDtype::kFloat32;
  const TileGrid* grid = nullptr;
  // Of W0 as it was loaded, one per tile.
  const uint64_t* checksums = nullptr;

  ParameterState from;
  ParameterState to;
  // W0 goes here, and `live` stays as it is.
  void* extract = nullptr;
};

// One pass over the tiles of some parameters.
struct SwitchWork {
  std::vector<ParameterSwitch> parameters;
  // Of the pass's logs, those that records of the states that are left, and of
  // those that come, lie in. The latter has been reset for them.
  int old_log = 0;
  int new_log = 1;
  // Go on where W0 is not what was loaded: its place will be repaired.
  bool ignore_drift = false;
  // Called before a tile, or the first one of a parameter, is touched, from any
  // thread; what it throws is a failure there. For fault injection.
  std::function<void(absl::string_view parameter)> fault;

  // One per tile, those of one parameter after those of the one before: which
  // to switch (empty: all), and which were switched.
  std::vector<uint8_t> todo;
  std::vector<uint8_t> done;
};

// For each parameter of a pass the number of its first tile, and behind them
// the number of all tiles.
std::vector<uint64_t> FirstTiles(absl::Span<const ParameterSwitch> parameters);

// Switches tiles on one device, and keeps two sets' undo logs in its memory.
// Not thread-safe.
class SwitchPass {
 public:
  virtual ~SwitchPass() = default;

  // The tiles that a parameter is cut into.
  virtual TileGrid Grid(const at::Tensor& parameter) const = 0;

  // Sees to it that Run needs no memory for sums of products of these ranks.
  // Throws what the allocator throws.
  virtual void Reserve(int max_rank, int max_terms) = 0;

  // Empties log number `log`, and makes room for what `parameters` are likely
  // to write, or for the most they can. GPU_OUT_OF_MEMORY.
  virtual absl::Status ResetLog(
      int log, absl::Span<const ParameterSwitch> parameters) = 0;

  // Bytes of log number `log` that are in use, and that are held.
  virtual int64_t log_bytes(int log) const = 0;
  virtual int64_t reserved_log_bytes(int log) const = 0;

  // f(i) for i in [0, count), work on this device beside the passes: side by
  // side on the CPU (ComputePool::ForEach), in order elsewhere.
  virtual void ForEach(size_t count, const std::function<void(size_t)>& f) {
    for (size_t i = 0; i < count; ++i) f(i);
  }

  // BASE_WEIGHTS_DRIFT names a parameter whose W0 is not what was loaded; else
  // what `fault` or the device said. After an error some tiles are done and
  // others are as they were, as `work.done` tells.
  virtual absl::Status Run(SwitchWork& work) = 0;

  // Writes the checksums of what is live, one per tile of `grid`, to `sums`.
  virtual void Checksum(const at::Tensor& live, const TileGrid& grid,
                        uint64_t* sums) = 0;
};

// The pass for weights that live on `device`. REQUIRES: a CUDA device only if
// CudaKernelsProblem() is empty.
std::unique_ptr<SwitchPass> MakeSwitchPass(at::Device device);

// How a weight of this type is held. REQUIRES: float32, bfloat16 or float16.
WeightDtype ToWeightDtype(at::ScalarType dtype);

// Rows and columns of a parameter as the switch sees it: [out, rest]; a vector
// is one row.
struct MatrixSize {
  int64_t rows = 0;
  int64_t cols = 0;
};
MatrixSize MatrixSizeOf(const at::Tensor& parameter);

// The error for a parameter whose W0 is not what was loaded.
absl::Status DriftError(absl::string_view parameter);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_SWITCH_PASS_H_
