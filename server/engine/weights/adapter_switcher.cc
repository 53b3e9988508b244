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
#include "server/engine/device_lost.h"
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

// Whether W0 + D, float32, stays finite as a weight of this dtype. Of terms
// alone it is computed otherwise while it is merged: one D is multiplied and
// added in one fused operation, which moves the sum by less than 2^-22 of it.
bool StaysFinite(const at::Tensor& sum, at::ScalarType dtype) {
  constexpr double kMargin = 1 + 0x1p-20;
  const at::Tensor largest = dtype == at::kFloat ? sum : sum * kMargin;
  return largest.to(dtype).isfinite().all().item<bool>();
}

// Sum of the terms and the functions of W0, float32 [rows, cols].
at::Tensor Delta(const SwitchPlan& plan, const PlannedParameter& planned,
                 const TileGrid& grid, const at::Tensor& w0) {
  at::Tensor delta =
      SumTerms(plan.TermsOf(planned), grid.rows(), grid.cols(), w0.device());
  if (planned.functions.empty()) return delta;
  const at::Tensor wide = w0.to(at::kFloat).view({grid.rows(), grid.cols()});
  for (const auto& [function, weight] : planned.functions) {
    delta.add_(function->Change(wide), weight);
  }
  return delta;
}

}  // namespace

AdapterSwitcher::AdapterSwitcher(const WeightStore* store, RestoreMode mode,
                                 std::unique_ptr<SwitchPass> pass)
    : store_(store), mode_(mode), pass_(std::move(pass)) {
  parameters_.reserve(store->tensors().size());  // they are pointed to
  for (const auto& [name, live] : store->tensors()) AddParameter(name, live);
  if (mode == RestoreMode::kUndoLog) AllocateRecords();
  pass_->ForEach(parameters_.size(), [this](size_t i) {
    parameters_[i].largest = LargestMagnitude(parameters_[i].live);
  });
}

void AdapterSwitcher::AddParameter(const std::string& name,
                                   const at::Tensor& live) {
  Parameter& parameter = parameters_.emplace_back();
  parameter.name = name;
  parameter.live = live;
  parameter.grid = pass_->Grid(live);
  parameter.checksums = Checksums(parameter);
  parameter.description.name = parameter.name;
  parameter.description.live = live.data_ptr();
  parameter.description.dtype = ToWeightDtype(live.scalar_type());
  parameter.description.grid = &parameter.grid;
  parameter.description.checksums =
      static_cast<const uint64_t*>(parameter.checksums.const_data_ptr());
}

void AdapterSwitcher::AllocateRecords() {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_) {
    count += parameter.grid.num_tiles();
  }
  for (int side = 0; side < 2; ++side) {
    records_[side] =
        at::zeros({count * static_cast<int64_t>(sizeof(TileRecord))},
                  at::TensorOptions(at::kByte).device(store_->device()));
    auto* next = static_cast<TileRecord*>(records_[side].data_ptr());
    for (Parameter& parameter : parameters_) {
      parameter.records[side] = next;
      next += parameter.grid.num_tiles();
    }
  }
}

at::Tensor AdapterSwitcher::Checksums(const Parameter& parameter) const {
  const at::Tensor checksums = at::empty(
      {parameter.grid.num_tiles()}, parameter.live.options().dtype(at::kLong));
  pass_->Checksum(parameter.live, parameter.grid,
                  static_cast<uint64_t*>(checksums.data_ptr()));
  return checksums;
}

const AdapterSwitcher::Parameter& AdapterSwitcher::Find(
    absl::string_view name) const {
  return *std::lower_bound(
      parameters_.begin(), parameters_.end(), name,
      [](const Parameter& p, absl::string_view n) { return p.name < n; });
}

bool AdapterSwitcher::IsPristine(absl::string_view name) const {
  const Parameter& parameter = Find(name);
  return at::equal(Checksums(parameter), parameter.checksums);
}

// ---- Before the first write -------------------------------------------------

ParameterSwitch AdapterSwitcher::Leave(uint32_t number,
                                       const PlannedParameter* planned) {
  Parameter& parameter = parameters_[number];
  ParameterSwitch description = parameter.description;
  if (planned == nullptr) return description;
  description.from.terms = plan_.TermsOf(*planned);
  if (parameter.copy.defined()) {
    description.from.pristine = parameter.copy.const_data_ptr();
  } else {
    description.from.records = parameter.records[side_];
  }
  return description;
}

absl::StatusOr<AdapterSwitcher::StagedMap> AdapterSwitcher::Stage(
    const SwitchPlan& plan,
    const std::vector<const PlannedParameter*>& planned) {
  StagedMap all;
  if (planned.empty()) return all;
  SwitchWork work;
  for (const PlannedParameter* const target : planned) {
    const Parameter& parameter = parameters_[target->parameter];
    Fail("check", parameter.name);
    Staged& staged = all[target->parameter];
    staged.w0 = at::empty_like(parameter.live);
    work.parameters.push_back(
        Leave(target->parameter, plan_.Find(target->parameter)));
    work.parameters.back().extract = staged.w0.data_ptr();
  }
  work.old_log = side_;
  GRAFT_RETURN_IF_ERROR(pass_->Run(work));

  pass_->ForEach(planned.size(), [&](size_t i) {
    const PlannedParameter& target = *planned[i];
    Staged& staged = all.find(target.parameter)->second;
    const at::Tensor delta =
        Delta(plan, target, parameters_[target.parameter].grid, staged.w0);
    const at::Tensor sum = staged.w0.to(at::kFloat) + delta.view_as(staged.w0);
    staged.merged = sum.to(staged.w0.scalar_type());
    staged.finite = StaysFinite(sum, staged.w0.scalar_type());
  });
  for (const auto& [number, staged] : all) {
    if (!staged.finite) {
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
                 LargestFinite(parameter.description.dtype))) {
      // Only where the bound does not settle it is the result itself computed.
      // A bound that is NaN does not settle it either.
      GRAFT_RETURN_IF_ERROR(Stage(plan, {&planned}).status());
    }
  }
  return Stage(plan, functions);
}

void AdapterSwitcher::BackUp(const SwitchPlan& plan) {
  if (mode_ != RestoreMode::kBackup) return;
  for (const PlannedParameter& planned : plan.parameters) {
    Parameter& parameter = parameters_[planned.parameter];
    // Not adapted before, so what is live is W0.
    if (!parameter.copy.defined()) Keep(parameter, parameter.live.clone());
  }
}

SwitchWork AdapterSwitcher::MakeWork(const SwitchPlan& next,
                                     const StagedMap& staged) {
  SwitchWork work;
  work.parameters.reserve(plan_.parameters.size() + next.parameters.size());
  // Both plans are in the order of parameters.
  auto old_one = plan_.parameters.begin();
  auto new_one = next.parameters.begin();
  while (old_one != plan_.parameters.end() ||
         new_one != next.parameters.end()) {
    const bool leaves = old_one != plan_.parameters.end() &&
                        (new_one == next.parameters.end() ||
                         old_one->parameter <= new_one->parameter);
    const bool comes = new_one != next.parameters.end() &&
                       (!leaves || old_one->parameter == new_one->parameter);
    const uint32_t number = leaves ? old_one->parameter : new_one->parameter;
    ParameterSwitch& description = work.parameters.emplace_back(
        Leave(number, leaves ? &*old_one : nullptr));
    if (comes) {
      const auto function = staged.find(number);
      if (function != staged.end()) {
        description.to.merged = function->second.merged.const_data_ptr();
        description.to.pristine = function->second.w0.const_data_ptr();
      } else {
        description.to.terms = next.TermsOf(*new_one);
        if (mode_ == RestoreMode::kBackup) {
          description.to.pristine = parameters_[number].copy.const_data_ptr();
        } else {
          description.to.records = parameters_[number].records[1 - side_];
        }
      }
      ++new_one;
    }
    if (leaves) ++old_one;
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
  SwitchPlan plan = MakeSwitchPlan(next);
  pass_->Reserve(std::max(plan.max_rank, plan_.max_rank),
                 std::max(plan.max_terms, plan_.max_terms));
  GRAFT_ASSIGN_OR_RETURN(StagedMap staged, Validate(plan));
  Fail("reserve", "");
  BackUp(plan);
  SwitchWork work = MakeWork(plan, staged);
  GRAFT_RETURN_IF_ERROR(pass_->ResetLog(work.new_log, work.parameters));
  std::string text_encoder_state = TextEncoderState(next);
  if (fault_) {
    work.fault = [this](absl::string_view name) {
      Fail("write", std::string(name));
    };
  }

  // From here on nothing is asked for that could be refused.
  absl::Status status = pass_->Run(work);
  if (status.ok()) {
    status = CatchTorchErrors([this]() -> absl::Status {
      Fail("commit", "");
      return absl::OkStatus();
    });
  }
  if (!status.ok()) {
    // Then the weights are lost too, and so is the process.
    if (IsDeviceLost(status)) return status;
    // Else there is nothing to roll back, and on a GPU perhaps no memory for
    // it.
    const bool written = std::any_of(work.done.begin(), work.done.end(),
                                     [](uint8_t done) { return done != 0; });
    if (written) GRAFT_RETURN_IF_ERROR(RollBack(std::move(work)));
    GRAFT_LOG(kError,
              written ? "a switch failed and was rolled back"
                      : "a switch failed before it changed anything",
              {{"error", std::string(status.message())}});
    return status;
  }
  Commit(std::move(next), std::move(plan), std::move(staged),
         std::move(text_encoder_state));
  SwitchReport report;
  report.duration = absl::FromChrono(std::chrono::steady_clock::now() - start);
  report.changed = true;
  return report;
}

void AdapterSwitcher::Keep(Parameter& parameter, at::Tensor copy) noexcept {
  DropCopy(parameter);
  parameter.copy = std::move(copy);
  copy_bytes_ += static_cast<int64_t>(parameter.copy.nbytes());
}

void AdapterSwitcher::DropCopy(Parameter& parameter) noexcept {
  if (!parameter.copy.defined()) return;
  copy_bytes_ -= static_cast<int64_t>(parameter.copy.nbytes());
  parameter.copy.reset();
}

void AdapterSwitcher::Commit(AdapterSet next, SwitchPlan plan, StagedMap staged,
                             std::string text_encoder_state) noexcept {
  if (mode_ == RestoreMode::kUndoLog) {
    for (const auto& planned : plan_.parameters) {
      DropCopy(parameters_[planned.parameter]);
    }
    for (auto& [number, function] : staged) {
      Keep(parameters_[number], std::move(function.w0));
    }
  }
  side_ = 1 - side_;
  plan_ = std::move(plan);
  text_encoder_state_ = std::move(text_encoder_state);
  current_ = std::move(next);
  CountMemory();
}

void AdapterSwitcher::CountMemory() noexcept {
  int64_t bytes = copy_bytes_;
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

absl::Status AdapterSwitcher::RestoreAll(const SwitchWork& failed) noexcept {
  // Tiles that were switched go back from their new state, the others from the
  // old one: but for these lists no memory is needed for either.
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
    if (IsDeviceLost(status)) return status;
    if (!status.ok()) {
      // Nothing else in it can fail. If it does, the weights are lost: a
      // supervisor starts the process anew.
      GRAFT_LOG(kError, "cannot restore the base weights, giving up",
                {{"error", std::string(status.message())}});
      std::abort();
    }
  }
  return absl::OkStatus();
}

void AdapterSwitcher::ForgetState() noexcept {
  if (mode_ == RestoreMode::kUndoLog) {
    for (Parameter& parameter : parameters_) DropCopy(parameter);
  }
  plan_ = {};
  current_.clear();
  text_encoder_state_.clear();
  CountMemory();
}

absl::Status AdapterSwitcher::RollBack(SwitchWork failed) {
  GRAFT_RETURN_IF_ERROR(RestoreAll(failed));
  const Fault fault = std::exchange(fault_, nullptr);
  AdapterSet former = current_;
  ForgetState();
  if (!former.empty()) {
    const absl::Status status = CatchTorchErrors(
        [&]() -> absl::Status { return Switch(std::move(former)).status(); });
    // The former set cannot be merged again now (out of memory, say). The base
    // is resident, and current() says so: the next request switches from there.
    if (IsDeviceLost(status)) return status;
    if (!status.ok()) {
      GRAFT_LOG(kError, "the former adapter set could not be merged again",
                {{"error", std::string(status.message())}});
    }
  }
  fault_ = fault;
  return absl::OkStatus();
}

absl::Status AdapterSwitcher::ForceBase() {
  if (!current_.empty()) {
    SwitchWork work = MakeWork({}, {});
    work.ignore_drift = true;
    GRAFT_RETURN_IF_ERROR(pass_->Run(work));
    ForgetState();
  }
  // A copy that memory has changed would be found at every switch, and never be
  // repaired: the next ones are taken from what was verified.
  for (Parameter& parameter : parameters_) DropCopy(parameter);
  CountMemory();
  return absl::OkStatus();
}

}  // namespace graft
