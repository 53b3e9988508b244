#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_ADAPTER_SWITCHER_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_ADAPTER_SWITCHER_H_

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/engine/engine.h"
#include "server/engine/engine_options.h"
#include "server/engine/weights/prepared_weights.h"
#include "server/engine/weights/switch_pass.h"
#include "server/engine/weights/switch_plan.h"
#include "server/engine/weights/weight_store.h"

namespace graft {

// Moves the live weights from one adapter set to another, in place. Every write
// to a base weight after load is here.
//
// Invariant: between calls, weights == round(W0 + sum of weight_i * D_i(W0))
// for exactly the members of current(), bit for bit, and a function of base and
// set alone: members are taken in the order of their SHA-256, D is summed in
// float32 in that order, W0 + D is rounded once to the weight's dtype.
//
// How W0 is got back from the merged weights:
//   undo log  D is computed again, with the same bits, and subtracted; what
//             rounding lost is set right from the log (undo_codec.h). Where D
//             is a function of W0, a copy of W0 is kept instead.
//   backup    A copy of each adapted weight, taken the first time.
// A checksum per tile, taken at load, tells in every switch whether what was
// got back is W0.
//
// Not thread-safe: owner thread only, but for memory().
class AdapterSwitcher {
 public:
  // Takes the checksums. `store` outlives this object; its tensors live where
  // `pass` works.
  AdapterSwitcher(const WeightStore* store, RestoreMode mode,
                  std::unique_ptr<SwitchPass> pass);

  // All targets or none. Validates the whole set before the first write; when a
  // write fails half-way the former set is put back (or, where even that fails,
  // the base; current() tells the truth). Errors as for Engine::SwitchAdapters.
  absl::StatusOr<SwitchReport> SwitchTo(const AdapterSet& next);

  // The base, whatever happens to be resident, and no copy of any of it: where
  // that cannot be undone, W0 is wrong afterwards, and VerifyBaseWeights tells.
  absl::Status ForceBase();

  // The resident set, by SHA-256. Keeps its factors alive.
  const AdapterSet& current() const { return current_; }

  // The part of current() that changes the text encoder, as text.
  const std::string& text_encoder_state() const { return text_encoder_state_; }

  // Bytes of copies and logs: in use, and held for later. Thread-safe.
  int64_t restore_bytes() const { return restore_bytes_.load(); }
  int64_t restore_reserved_bytes() const { return reserved_bytes_.load(); }

  // Whether the live parameter `name` has the checksums taken at load.
  // REQUIRES: the base is resident.
  bool IsPristine(absl::string_view name) const;

  // Called with the name of the phase ("check", "reserve", "write", "commit")
  // and of a parameter or "", from any thread; what it throws is a failure
  // there. For fault injection.
  using Fault =
      std::function<void(absl::string_view phase, const std::string& name)>;
  void SetFaultForTesting(Fault fault) { fault_ = std::move(fault); }

  // The copy of W0 of `name` that is kept, undefined if there is none.
  const at::Tensor& CopyForTesting(absl::string_view name) const {
    return Find(name).copy;
  }

 private:
  // One parameter that adapters can reach. First what every switch reads: a
  // tensor's own memory is further away than the time of a switch on a GPU
  // allows.
  struct Parameter {
    // What of a ParameterSwitch does not depend on the sets.
    ParameterSwitch description;
    TileGrid grid;
    // One per tile, in records_: of the resident set's log and of the one
    // before, in turns.
    TileRecord* records[2] = {};
    double largest = 0;  // max|W0|
    at::Tensor copy;     // of W0, where one is kept

    std::string name;
    at::Tensor live;
    at::Tensor checksums;  // of W0, int64 per tile
  };
  // What is computed before the first write for one parameter whose D is a
  // function of W0.
  struct Staged {
    at::Tensor w0;
    at::Tensor merged;
    bool finite = false;
  };
  using StagedMap = std::map<uint32_t, Staged>;

  void AddParameter(const std::string& name, const at::Tensor& live);
  void AllocateRecords();
  const Parameter& Find(absl::string_view name) const;
  at::Tensor Checksums(const Parameter& parameter) const;
  absl::StatusOr<SwitchReport> Switch(AdapterSet next);

  // The way from what is resident, `planned` there (null: the base), to the
  // base.
  ParameterSwitch Leave(uint32_t parameter, const PlannedParameter* planned);
  // W0 of the planned parameters and what they become, checked to be finite.
  absl::StatusOr<StagedMap> Stage(
      const SwitchPlan& plan,
      const std::vector<const PlannedParameter*>& planned);
  // Stages what has to be computed before the first write.
  absl::StatusOr<StagedMap> Validate(const SwitchPlan& plan);
  void BackUp(const SwitchPlan& plan);
  SwitchWork MakeWork(const SwitchPlan& next, const StagedMap& staged);
  // Takes over what was written. Nothing in it can fail.
  void Commit(AdapterSet next, SwitchPlan plan, StagedMap staged,
              std::string text_encoder_state) noexcept;
  // After a pass that failed: the former set, or the base. An error only if
  // IsDeviceLost().
  absl::Status RollBack(SwitchWork failed);
  // W0 everywhere; the same. Else it ends the process where that cannot be had.
  absl::Status RestoreAll(const SwitchWork& failed) noexcept;
  void ForgetState() noexcept;
  void Keep(Parameter& parameter, at::Tensor copy) noexcept;
  void DropCopy(Parameter& parameter) noexcept;
  void CountMemory() noexcept;
  void Fail(absl::string_view phase, const std::string& name) const {
    if (fault_) fault_(phase, name);
  }

  const WeightStore* const store_;
  const RestoreMode mode_;
  std::vector<Parameter> parameters_;  // as the store's tensors()
  at::Tensor records_[2];              // TileRecords, as bytes
  const std::unique_ptr<SwitchPass> pass_;
  int side_ = 0;  // of the resident set's log

  AdapterSet current_;
  SwitchPlan plan_;  // of current_
  std::string text_encoder_state_;
  int64_t copy_bytes_ = 0;
  std::atomic<int64_t> restore_bytes_{0};
  std::atomic<int64_t> reserved_bytes_{0};
  Fault fault_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_ADAPTER_SWITCHER_H_
