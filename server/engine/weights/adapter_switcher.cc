#include "server/engine/weights/adapter_switcher.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/engine/torch_status.h"
#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {
namespace {

double LargestFinite(WeightDtype dtype) {
  switch (dtype) {
    case WeightDtype::kFloat16:
      return std::numeric_limits<at::Half>::max();
    case WeightDtype::kBFloat16:
      return std::numeric_limits<at::BFloat16>::max();
    case WeightDtype::kFloat32:
      break;
  }
  return std::numeric_limits<float>::max();
}

// max|W|: magnitudes are ordered as their bits are.
template <class Weight>
double LargestMagnitude(const void* data, int64_t count) {
  const auto* const bits = static_cast<const typename Weight::Bits*>(data);
  typename Weight::Bits largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto magnitude =
        static_cast<typename Weight::Bits>(bits[i] & Weight::kMagnitude);
    largest = std::max(largest, magnitude);
  }
  return Weight::Widen(largest);
}

double LargestMagnitude(const at::Tensor& tensor) {
  if (!tensor.is_cpu()) {
    return tensor.numel() == 0 ? 0 : tensor.abs().max().item<double>();
  }
  const void* const data = tensor.const_data_ptr();
  switch (ToWeightDtype(tensor.scalar_type())) {
    case WeightDtype::kFloat16:
      return LargestMagnitude<Float16Weight>(data, tensor.numel());
    case WeightDtype::kBFloat16:
      return LargestMagnitude<BFloat16Weight>(data, tensor.numel());
    case WeightDtype::kFloat32:
      break;
  }
  return LargestMagnitude<Float32Weight>(data, tensor.numel());
}

absl::Status OverflowError(const std::string& parameter, at::ScalarType dtype) {
  return Error(ErrorReason::kAdapterNonFinite,
               absl::StrCat("merging into \"", parameter, "\" would overflow ",
                            c10::toString(dtype),
                            "; use smaller weights or a wider --dtype"),
               {{"tensor", parameter}});
}

// Sum of the terms and the functions of W0, float32 [rows, cols].
at::Tensor Delta(const PlannedParameter& planned, const TileGrid& grid,
                 const at::Tensor& w0) {
  at::Tensor delta =
      SumTerms(planned.terms, grid.rows(), grid.cols(), w0.device());
  if (planned.functions.empty()) return delta;
  const at::Tensor wide = w0.to(at::kFloat).view({grid.rows(), grid.cols()});
  for (const auto& [function, weight] : planned.functions) {
    delta.add_(function->Change(wide), weight);
  }
  return delta;
}

TileRecord* Records(const at::Tensor& bytes) {
  return static_cast<TileRecord*>(bytes.data_ptr());
}

}  // namespace

AdapterSwitcher::AdapterSwitcher(const WeightStore* store, RestoreMode mode,
                                 std::unique_ptr<SwitchPass> pass)
    : store_(store), mode_(mode), pass_(std::move(pass)) {
  for (const auto& [name, live] : store->tensors()) AddParameter(name, live);
  for (Parameter& parameter : parameters_) {
    parameter.checksums = Checksums(parameter);
  }
  pass_->ForEach(parameters_.size(), [this](size_t i) {
    parameters_[i].largest = LargestMagnitude(parameters_[i].live);
  });
}

void AdapterSwitcher::AddParameter(const std::string& name,
                                   const at::Tensor& live) {
  Parameter parameter;
  parameter.name = name;
  parameter.live = live;
  parameter.dtype = ToWeightDtype(live.scalar_type());
  parameter.grid = pass_->Grid(live);
  if (mode_ == RestoreMode::kUndoLog) {
    for (auto& records : parameter.records) {
      records = at::zeros({parameter.grid.num_tiles() *
                           static_cast<int64_t>(sizeof(TileRecord))},
                          live.options().dtype(at::kByte));
    }
  }
  index_.emplace(name, static_cast<uint32_t>(parameters_.size()));
  parameters_.push_back(std::move(parameter));
}

at::Tensor AdapterSwitcher::Checksums(const Parameter& parameter) const {
  const at::Tensor checksums = at::empty(
      {parameter.grid.num_tiles()}, parameter.live.options().dtype(at::kLong));
  pass_->Checksum(parameter.live, parameter.grid,
                  static_cast<uint64_t*>(checksums.data_ptr()));
  return checksums;
}

bool AdapterSwitcher::IsPristine(absl::string_view name) const {
  const Parameter& parameter = parameters_[index_.find(name)->second];
  return at::equal(Checksums(parameter), parameter.checksums);
}

// ---- Before the first write -------------------------------------------------

ParameterState AdapterSwitcher::OldState(uint32_t number) {
  Parameter& parameter = parameters_[number];
  ParameterState state;
  const PlannedParameter* const planned = plan_.Find(number);
  if (planned == nullptr) return state;
  state.terms = planned->terms;
  if (parameter.copy.defined()) {
    state.pristine = parameter.copy.const_data_ptr();
  } else {
    state.records = Records(parameter.records[side_]);
  }
  return state;
}

ParameterSwitch AdapterSwitcher::Describe(uint32_t number) {
  Parameter& parameter = parameters_[number];
  ParameterSwitch description;
  description.name = parameter.name;
  description.live = parameter.live.data_ptr();
  description.dtype = parameter.dtype;
  description.grid = &parameter.grid;
  description.checksums =
      static_cast<const uint64_t*>(parameter.checksums.const_data_ptr());
  description.from = OldState(number);
  return description;
}

absl::StatusOr<AdapterSwitcher::StagedMap> AdapterSwitcher::Stage(
    const std::vector<const PlannedParameter*>& planned) {
  StagedMap all;
  SwitchWork work;
  for (const PlannedParameter* const target : planned) {
    const Parameter& parameter = parameters_[target->parameter];
    Fail("check", parameter.name);
    Staged& staged = all[target->parameter];
    staged.w0 = at::empty_like(parameter.live);
    work.parameters.push_back(Describe(target->parameter));
    work.parameters.back().extract = staged.w0.data_ptr();
  }
  work.old_log = side_;
  GRAFT_RETURN_IF_ERROR(pass_->Run(work));

  pass_->ForEach(planned.size(), [&](size_t i) {
    const PlannedParameter& target = *planned[i];
    Staged& staged = all.find(target.parameter)->second;
    const at::Tensor delta =
        Delta(target, parameters_[target.parameter].grid, staged.w0);
    staged.merged = (staged.w0.to(at::kFloat) + delta.view_as(staged.w0))
                        .to(staged.w0.scalar_type());
  });
  for (const auto& [number, staged] : all) {
    if (!staged.merged.isfinite().all().item<bool>()) {
      return OverflowError(parameters_[number].name, staged.w0.scalar_type());
    }
  }
  return all;
}

absl::StatusOr<AdapterSwitcher::StagedMap> AdapterSwitcher::Validate(
    const SwitchPlan& plan) {
  std::vector<const PlannedParameter*> functions;
  for (const PlannedParameter& planned : plan.parameters) {
    const Parameter& parameter = parameters_[planned.parameter];
    if (!planned.functions.empty()) {
      functions.push_back(&planned);
    } else if (!(parameter.largest + planned.bound <
                 LargestFinite(parameter.dtype))) {
      // Only where the bound does not settle it is the result itself computed.
      // A bound that is NaN does not settle it either.
      GRAFT_RETURN_IF_ERROR(Stage({&planned}).status());
    }
  }
  return Stage(functions);
}

void AdapterSwitcher::BackUp(const SwitchPlan& plan) {
  if (mode_ != RestoreMode::kBackup) return;
  for (const PlannedParameter& planned : plan.parameters) {
    Parameter& parameter = parameters_[planned.parameter];
    // Not adapted before, so what is live is W0.
    if (!parameter.copy.defined()) parameter.copy = parameter.live.clone();
  }
}

SwitchWork AdapterSwitcher::MakeWork(const SwitchPlan& next,
                                     const StagedMap& staged) {
  std::vector<uint32_t> numbers;
  for (const auto& planned : plan_.parameters) {
    numbers.push_back(planned.parameter);
  }
  for (const auto& planned : next.parameters) {
    numbers.push_back(planned.parameter);
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());

  SwitchWork work;
  for (const uint32_t number : numbers) {
    ParameterSwitch description = Describe(number);
    const auto function = staged.find(number);
    if (function != staged.end()) {
      description.to.merged = function->second.merged.const_data_ptr();
      description.to.pristine = function->second.w0.const_data_ptr();
    } else if (const PlannedParameter* const planned = next.Find(number)) {
      description.to.terms = planned->terms;
      if (mode_ == RestoreMode::kBackup) {
        description.to.pristine = parameters_[number].copy.const_data_ptr();
      } else {
        description.to.records =
            Records(parameters_[number].records[1 - side_]);
      }
    }
    work.parameters.push_back(std::move(description));
  }
  work.old_log = side_;
  work.new_log = 1 - side_;
  return work;
}

// ---- The switch -------------------------------------------------------------

absl::StatusOr<SwitchReport> AdapterSwitcher::SwitchTo(const AdapterSet& set) {
  GRAFT_ASSIGN_OR_RETURN(AdapterSet next, CanonicalSet(set));
  if (SameSet(next, current_)) return SwitchReport();
  return Switch(std::move(next));
}

absl::StatusOr<SwitchReport> AdapterSwitcher::Switch(AdapterSet next) {
  const auto start = std::chrono::steady_clock::now();
  SwitchPlan plan = MakeSwitchPlan(next, index_);
  pass_->Reserve(std::max(plan.max_rank, plan_.max_rank),
                 std::max(plan.max_terms, plan_.max_terms));
  GRAFT_ASSIGN_OR_RETURN(StagedMap staged, Validate(plan));
  Fail("reserve", "");
  BackUp(plan);
  SwitchWork work = MakeWork(plan, staged);
  GRAFT_RETURN_IF_ERROR(pass_->ResetLog(work.new_log, work.parameters));

  if (fault_) {
    work.fault = [this](const std::string& name) { Fail("write", name); };
  }
  absl::Status status = pass_->Run(work);
  if (status.ok()) {
    status = CatchTorchErrors([this]() -> absl::Status {
      Fail("commit", "");
      return absl::OkStatus();
    });
  }
  if (!status.ok()) {
    GRAFT_LOG(kError, "switch failed, rolling back",
              {{"error", std::string(status.message())}});
    RollBack(std::move(work));
    return status;
  }
  Commit(std::move(next), std::move(plan), std::move(staged));
  SwitchReport report;
  report.duration = absl::FromChrono(std::chrono::steady_clock::now() - start);
  report.changed = true;
  return report;
}

void AdapterSwitcher::Commit(AdapterSet next, SwitchPlan plan,
                             StagedMap staged) {
  if (mode_ == RestoreMode::kUndoLog) {
    for (const auto& planned : plan_.parameters) {
      parameters_[planned.parameter].copy.reset();
    }
    for (auto& [number, function] : staged) {
      parameters_[number].copy = std::move(function.w0);
    }
  }
  side_ = 1 - side_;
  plan_ = std::move(plan);
  text_encoder_state_ = TextEncoderState(next);
  current_ = std::move(next);
  CountMemory();
}

void AdapterSwitcher::CountMemory() {
  int64_t bytes = 0;
  for (const Parameter& parameter : parameters_) {
    if (parameter.copy.defined()) {
      bytes += static_cast<int64_t>(parameter.copy.nbytes());
    }
  }
  // Where the base is resident, what the log still holds undoes nothing.
  if (mode_ == RestoreMode::kUndoLog && !plan_.parameters.empty()) {
    bytes += pass_->log_bytes(side_);
    for (const PlannedParameter& planned : plan_.parameters) {
      const Parameter& parameter = parameters_[planned.parameter];
      if (parameter.copy.defined()) continue;
      bytes +=
          parameter.grid.num_tiles() * static_cast<int64_t>(sizeof(TileRecord));
    }
  }
  restore_bytes_ = bytes;
  reserved_bytes_ = pass_->reserved_log_bytes(0) + pass_->reserved_log_bytes(1);
}

// ---- Failure ----------------------------------------------------------------

void AdapterSwitcher::RestoreAll(const SwitchWork& failed) {
  // Tiles that were switched go back from their new state, the others from the
  // old one: no memory is needed for either.
  SwitchWork done, rest;
  done.parameters = rest.parameters = failed.parameters;
  for (ParameterSwitch& parameter : done.parameters) {
    parameter.from = std::exchange(parameter.to, {});
  }
  for (ParameterSwitch& parameter : rest.parameters) parameter.to = {};
  done.todo = failed.done;
  for (const uint8_t was_done : failed.done) rest.todo.push_back(!was_done);
  done.old_log = failed.new_log;
  rest.old_log = failed.old_log;
  done.ignore_drift = rest.ignore_drift = true;
  for (SwitchWork* const work : {&done, &rest}) {
    const absl::Status status = pass_->Run(*work);
    if (!status.ok()) {
      // Nothing in it can fail. If it does, the weights are lost: a supervisor
      // starts the process anew.
      GRAFT_LOG(kError, "cannot restore the base weights, giving up",
                {{"error", std::string(status.message())}});
      std::abort();
    }
  }
}

void AdapterSwitcher::ForgetState() {
  if (mode_ == RestoreMode::kUndoLog) {
    for (Parameter& parameter : parameters_) parameter.copy.reset();
  }
  plan_ = {};
  current_.clear();
  text_encoder_state_.clear();
  CountMemory();
}

void AdapterSwitcher::RollBack(SwitchWork failed) {
  const Fault fault = std::exchange(fault_, nullptr);
  RestoreAll(failed);
  AdapterSet former = current_;
  ForgetState();
  if (!former.empty()) {
    const absl::Status status = CatchTorchErrors(
        [&]() -> absl::Status { return Switch(std::move(former)).status(); });
    // The former set cannot be merged again now (out of memory, say). The base
    // is resident, and current() says so: the next request switches from there.
    if (!status.ok()) {
      GRAFT_LOG(kError, "the former adapter set could not be merged again",
                {{"error", std::string(status.message())}});
    }
  }
  fault_ = fault;
}

absl::Status AdapterSwitcher::ForceBase() {
  if (current_.empty()) return absl::OkStatus();
  SwitchWork work = MakeWork({}, {});
  work.ignore_drift = true;
  GRAFT_RETURN_IF_ERROR(pass_->Run(work));
  ForgetState();
  return absl::OkStatus();
}

}  // namespace graft
