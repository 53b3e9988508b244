#include "server/engine/cuda/cuda_switch_pass.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/engine/cuda/cuda_kernels.h"
#include "server/engine/device_lost.h"
#include "server/engine/torch_status.h"

namespace graft {
namespace {

// Room for a log, as a share of the weights: what adapters of a tenth of the
// weights' size need, and half as much again. One that needs more gets it.
constexpr uint64_t kWeightsPerLog = 16;
constexpr uint64_t kSmallestLog = 1 << 16;

// The kernels store logs 16 bytes at a time, and go on where a log that was too
// small ended.
constexpr uint64_t RoundUpToLine(uint64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

uint32_t Append(DeltaTerms from, std::vector<DeltaTerm>& terms) {
  const auto first = static_cast<uint32_t>(terms.size());
  terms.insert(terms.end(), from.begin(), from.end());
  return first;
}

template <class T>
uint64_t BytesOf(const std::vector<T>& values) {
  return values.size() * sizeof(T);
}

// The states that tiles start with: only those of `todo` are pending, and only
// those before the first fault that is injected, which is `failure` then.
std::vector<TileState> FirstStates(const SwitchWork& work,
                                   absl::Status& failure) {
  if (work.todo.empty() && !work.fault) return {};
  const std::vector<uint64_t> first = FirstTiles(work.parameters);
  std::vector<TileState> states(first.back());
  for (size_t tile = 0; tile < work.todo.size(); ++tile) {
    if (work.todo[tile] == 0) states[tile] = TileState::kSkip;
  }
  for (size_t i = 0; work.fault && i < work.parameters.size(); ++i) {
    try {
      work.fault(work.parameters[i].name);
    } catch (...) {
      failure = StatusFromCurrentException();
      std::fill(states.begin() + static_cast<ptrdiff_t>(first[i]), states.end(),
                TileState::kSkip);
      break;
    }
  }
  return states;
}

// Of the parameter that tile number `tile` belongs to.
absl::string_view NameOf(const SwitchWork& work, uint64_t tile) {
  const std::vector<uint64_t> first = FirstTiles(work.parameters);
  const auto after = std::upper_bound(first.begin(), first.end(), tile);
  return work.parameters[static_cast<size_t>(after - first.begin()) - 1].name;
}

// The summary, which the tables begin with.
at::Tensor SummaryIn(const at::Tensor& tables) {
  return tables.narrow(0, 0, sizeof(SwitchSummary));
}

// Tells which tiles are done, and the first that drifted.
absl::Status Judge(const std::vector<TileState>& states, SwitchWork& work) {
  absl::Status status;
  for (uint64_t tile = 0; tile < states.size(); ++tile) {
    work.done[tile] = states[tile] == TileState::kDone ? 1 : 0;
    if (states[tile] == TileState::kDrifted && status.ok()) {
      status = DriftError(NameOf(work, tile));
    }
  }
  return status;
}

}  // namespace

// Tensors made in inference mode may only be written in it, so all of this is.
CudaSwitchPass::CudaSwitchPass(at::Device device) : device_(device) {
  const c10::InferenceMode inference;
  for (Log& log : logs_) Grow(log.memory, 0, /*on_host=*/false);
}

TileGrid CudaSwitchPass::Grid(const at::Tensor& parameter) const {
  const MatrixSize size = MatrixSizeOf(parameter);
  return {size.rows, size.cols, kWarpTileRows, kWarpTileCols};
}

absl::Status CudaSwitchPass::ResetLog(
    int log, absl::Span<const ParameterSwitch> parameters) {
  uint64_t bytes = kSmallestLog;
  for (const ParameterSwitch& parameter : parameters) {
    if (parameter.to.records == nullptr) continue;
    const auto elements =
        static_cast<uint64_t>(parameter.grid->rows() * parameter.grid->cols());
    bytes += elements * WeightDtypeSize(parameter.dtype) / kWeightsPerLog;
  }
  uint64_t table_bytes = 0;
  for (const ParameterSwitch& parameter : parameters) {
    table_bytes += sizeof(SwitchParameter) +
                   sizeof(DeltaTerm) * (parameter.from.terms.size() +
                                        parameter.to.terms.size());
  }
  return CatchTorchErrors([&]() -> absl::Status {
    const c10::InferenceMode inference;
    logs_[log].used = 0;
    Grow(logs_[log].memory, RoundUpToLine(bytes), /*on_host=*/false);
    ReserveTables(table_bytes, FirstTiles(parameters).back());
    return absl::OkStatus();
  });
}

int64_t CudaSwitchPass::log_bytes(int log) const {
  return static_cast<int64_t>(logs_[log].used);
}

int64_t CudaSwitchPass::reserved_log_bytes(int log) const {
  return logs_[log].memory.numel();
}

uint8_t* CudaSwitchPass::Grow(at::Tensor& memory, uint64_t bytes,
                              bool on_host) const {
  const auto size = static_cast<int64_t>(bytes);
  if (!memory.defined() || memory.numel() < size) {
    const auto options = on_host
                             ? at::TensorOptions(at::kByte).pinned_memory(true)
                             : at::TensorOptions(at::kByte).device(device_);
    // Given back before more is asked for, which may be refused.
    memory = at::empty({0}, options);
    memory = at::empty({size}, options);
  }
  return static_cast<uint8_t*>(memory.data_ptr());
}

void CudaSwitchPass::Extend(Log& log, uint64_t bytes) const {
  at::Tensor memory;
  Grow(memory, RoundUpToLine(log.capacity() + bytes), /*on_host=*/false);
  memory.narrow(0, 0, log.memory.numel()).copy_(log.memory);
  log.memory = std::move(memory);
}

CudaSwitchPass::Tables CudaSwitchPass::MakeTables(const SwitchWork& work) {
  Tables tables;
  tables.parameters.reserve(work.parameters.size());
  tables.terms.reserve(2 * work.parameters.size());
  for (const ParameterSwitch& from : work.parameters) {
    SwitchParameter to;
    to.rows = from.grid->rows();
    to.cols = from.grid->cols();
    to.first_tile = tables.num_tiles;
    to.dtype = from.dtype;
    to.live = from.live;
    to.pristine = from.from.pristine;
    to.old_terms = Append(from.from.terms, tables.terms);
    to.num_old_terms = static_cast<uint32_t>(from.from.terms.size());
    to.old_records = from.from.records;
    to.new_terms = Append(from.to.terms, tables.terms);
    to.num_new_terms = static_cast<uint32_t>(from.to.terms.size());
    to.new_records = from.to.records;
    to.extract = from.extract;
    if (from.extract == nullptr) to.merged = from.to.merged;
    // Where merged weights are there W0 was extracted, and so checked, before.
    if (!work.ignore_drift && to.merged == nullptr) {
      to.checksums = from.checksums;
    }
    to.plain = IsPlain(to, tables.terms.data());
    tables.num_tiles += static_cast<uint64_t>(from.grid->num_tiles());
    tables.parameters.push_back(to);
  }
  return tables;
}

void CudaSwitchPass::ReserveTables(uint64_t bytes, uint64_t num_tiles) {
  bytes += sizeof(SwitchSummary);
  Grow(host_tables_, bytes, /*on_host=*/true);
  Grow(tables_, bytes, /*on_host=*/false);
  Grow(host_states_, num_tiles, /*on_host=*/true);
  Grow(states_, num_tiles, /*on_host=*/false);
  Grow(rest_, num_tiles * sizeof(uint32_t), /*on_host=*/false);
}

SwitchLaunch CudaSwitchPass::Upload(const Tables& tables,
                                    const SwitchSummary& summary) {
  const uint64_t terms_at = sizeof(SwitchSummary) + BytesOf(tables.parameters);
  const uint64_t bytes = terms_at + BytesOf(tables.terms);
  ReserveTables(bytes - sizeof(SwitchSummary), tables.num_tiles);
  auto* const host = static_cast<uint8_t*>(host_tables_.data_ptr());
  std::memcpy(host, &summary, sizeof(summary));
  std::memcpy(host + sizeof(SwitchSummary), tables.parameters.data(),
              BytesOf(tables.parameters));
  std::memcpy(host + terms_at, tables.terms.data(), BytesOf(tables.terms));
  auto* const device = static_cast<uint8_t*>(tables_.data_ptr());
  const auto size = static_cast<int64_t>(bytes);
  tables_.narrow(0, 0, size)
      .copy_(host_tables_.narrow(0, 0, size),
             /*non_blocking=*/true);

  SwitchLaunch launch;
  launch.summary = reinterpret_cast<SwitchSummary*>(device);
  launch.parameters =
      reinterpret_cast<const SwitchParameter*>(device + sizeof(SwitchSummary));
  launch.num_parameters = static_cast<uint32_t>(tables.parameters.size());
  launch.terms = reinterpret_cast<const DeltaTerm*>(device + terms_at);
  launch.num_tiles = tables.num_tiles;
  const auto any = [&](auto is) {
    return std::any_of(tables.parameters.begin(), tables.parameters.end(), is);
  };
  if (any([](const SwitchParameter& p) { return p.plain; })) {
    launch.rest = static_cast<uint32_t*>(rest_.data_ptr());
  }
  launch.sums = any(HasSums);
  launch.states = static_cast<TileState*>(states_.data_ptr());
  launch.all = tables.states.empty();
  if (launch.all) {
    static_assert(static_cast<int>(TileState::kPending) == 0);
    states_.zero_();
  } else {
    const auto count = static_cast<int64_t>(tables.num_tiles);
    std::memcpy(host_states_.data_ptr(), tables.states.data(),
                tables.num_tiles);
    states_.narrow(0, 0, count).copy_(host_states_.narrow(0, 0, count));
  }
  return launch;
}

SwitchSummary CudaSwitchPass::Launch(const SwitchLaunch& launch,
                                     const Tables& tables) {
  for (const WeightDtype dtype :
       {WeightDtype::kFloat32, WeightDtype::kBFloat16, WeightDtype::kFloat16}) {
    const bool wanted =
        std::any_of(tables.parameters.begin(), tables.parameters.end(),
                    [&](const SwitchParameter& p) { return p.dtype == dtype; });
    if (wanted) SwitchOnCuda(device_, launch, dtype);
  }
  const at::Tensor host = SummaryIn(host_tables_);
  host.copy_(SummaryIn(tables_));  // waits for the device
  SwitchSummary summary;
  std::memcpy(&summary, host.const_data_ptr(), sizeof(summary));
  return summary;
}

SwitchSummary CudaSwitchPass::LaunchAll(SwitchLaunch launch,
                                        const Tables& tables,
                                        const Log& old_log, Log& new_log) {
  for (;;) {
    launch.old_log =
        static_cast<const uint8_t*>(old_log.memory.const_data_ptr());
    launch.old_log_capacity = old_log.capacity();
    launch.new_log = static_cast<uint8_t*>(new_log.memory.data_ptr());
    launch.new_log_capacity = new_log.capacity();
    SwitchSummary summary = Launch(launch, tables);
    new_log.used = summary.log_bytes;
    if (summary.missing_bytes == 0) return summary;
    // All that has a place lies within the former capacity.
    summary.log_bytes = new_log.capacity();
    Extend(new_log, summary.missing_bytes);
    summary.missing_bytes = 0;
    summary.num_rest = 0;
    const at::Tensor host = SummaryIn(host_tables_);
    std::memcpy(host.data_ptr(), &summary, sizeof(summary));
    SummaryIn(tables_).copy_(host, /*non_blocking=*/true);
    launch.pending = TileState::kNoRoom;
    launch.all = false;
  }
}

absl::StatusOr<std::vector<TileState>> CudaSwitchPass::ReadStates(
    uint64_t num_tiles) {
  const auto count = static_cast<int64_t>(num_tiles);
  const absl::Status status = CatchTorchErrors([&]() -> absl::Status {
    host_states_.narrow(0, 0, count).copy_(states_.narrow(0, 0, count));
    return absl::OkStatus();
  });
  if (IsDeviceLost(status)) return status;
  if (!status.ok()) {
    GRAFT_LOG(kError, "the device does not tell what it has written, giving up",
              {{"error", std::string(status.message())}});
    std::abort();
  }
  std::vector<TileState> states(num_tiles);
  std::memcpy(states.data(), host_states_.const_data_ptr(), num_tiles);
  return states;
}

absl::Status CudaSwitchPass::Run(SwitchWork& work) {
  const c10::InferenceMode inference;
  absl::Status failure;
  Tables tables = MakeTables(work);
  tables.states = FirstStates(work, failure);
  work.done.assign(tables.num_tiles, 0);
  if (tables.num_tiles == 0) return failure;
  bool launched = false;
  SwitchSummary summary;
  failure.Update(CatchTorchErrors([&]() -> absl::Status {
    SwitchSummary before;
    before.log_bytes = logs_[work.new_log].used;
    const SwitchLaunch launch = Upload(tables, before);
    launched = true;
    summary =
        LaunchAll(launch, tables, logs_[work.old_log], logs_[work.new_log]);
    return absl::OkStatus();
  }));
  if (!launched || IsDeviceLost(failure)) return failure;
  if (failure.ok() && summary.num_drifted == 0 && tables.states.empty()) {
    work.done.assign(tables.num_tiles, 1);
    return absl::OkStatus();
  }
  GRAFT_ASSIGN_OR_RETURN(const std::vector<TileState> states,
                         ReadStates(tables.num_tiles));
  failure.Update(Judge(states, work));
  return failure;
}

void CudaSwitchPass::Checksum(const at::Tensor& live, const TileGrid& grid,
                              uint64_t* sums) {
  if (grid.num_tiles() == 0) return;
  const c10::InferenceMode inference;
  SwitchParameter parameter;
  parameter.rows = grid.rows();
  parameter.cols = grid.cols();
  parameter.dtype = ToWeightDtype(live.scalar_type());
  parameter.live = live.data_ptr();
  parameter.sums = sums;
  Tables tables;
  tables.num_tiles = static_cast<uint64_t>(grid.num_tiles());
  tables.parameters.push_back(parameter);
  Launch(Upload(tables, {}), tables);
}

}  // namespace graft
