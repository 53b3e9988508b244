#include "server/engine/weights/cpu_switch_pass.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/engine/torch_status.h"

namespace graft {
namespace {

// Logs begin where a processor likes to read them.
constexpr size_t kLogAlignment = 16;

size_t RoundUp(size_t bytes) {
  return (bytes + kLogAlignment - 1) / kLogAlignment * kLogAlignment;
}

// A tile of `from` to the same place of `to`.
void CopyTile(const void* from, void* to, const TileRange& tile, int64_t cols,
              size_t element_size) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    const size_t at =
        static_cast<size_t>((tile.row + i) * cols + tile.col) * element_size;
    std::memcpy(static_cast<uint8_t*>(to) + at,
                static_cast<const uint8_t*>(from) + at,
                static_cast<size_t>(tile.cols) * element_size);
  }
}

// The first error of several threads.
class FirstError {
 public:
  void Set(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_) {
    failed_.store(true, std::memory_order_relaxed);
    absl::MutexLock lock(&mu_);
    status_.Update(std::move(status));
  }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  absl::Status Take() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return status_;
  }

 private:
  std::atomic<bool> failed_{false};
  absl::Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

TileJob MakeJob(const ParameterSwitch& parameter, int64_t tile,
                const UndoArena& old_log) {
  TileJob job;
  job.live = parameter.live;
  job.cols = parameter.grid->cols();
  job.range = parameter.grid->tile(tile);
  job.pristine = parameter.from.pristine;
  job.old_terms = parameter.from.terms;
  if (job.pristine == nullptr && parameter.from.records != nullptr) {
    job.old_log =
        ReadRecord(parameter.from.records[tile],
                   absl::MakeConstSpan(old_log.memory(), old_log.used()),
                   job.range, parameter.dtype);
  }
  job.extract = parameter.extract;
  if (parameter.to.merged == nullptr) job.new_terms = parameter.to.terms;
  job.keep_log = parameter.to.records != nullptr;
  return job;
}

// All of W0, block by block, got back from the merged weights and the log that
// was just made.
void WriteRaw(const SwitchKernels& kernels, const TileJob& switched,
              TileScratch& scratch, const ParameterSwitch& parameter,
              uint8_t* out) {
  PackLog(scratch, parameter.dtype, scratch.packed.data());
  TileRecord record;
  record.kind = TileRecord::Kind::kLog;
  record.num_codes = scratch.num_codes;
  record.num_exceptions = static_cast<uint16_t>(scratch.num_exceptions);
  TileJob job = switched;
  job.pristine = nullptr;
  job.old_terms = switched.new_terms;
  job.old_log = ReadRecord(record, scratch.packed, job.range, parameter.dtype);
  job.new_terms = {};
  job.keep_log = false;
  job.extract_blocks = out;
  kernels.For(parameter.dtype)(job, scratch);
}

// Moves the log that lies in `scratch` to the arena.
TileRecord StoreLog(const SwitchKernels& kernels, const TileJob& job,
                    const ParameterSwitch& parameter, TileScratch& scratch,
                    UndoArena& arena) {
  const size_t log_bytes = PackedLogBytes(scratch, parameter.dtype);
  const size_t raw_bytes = RawTileBytes(job.range, parameter.dtype);
  TileRecord record;
  if (log_bytes > raw_bytes) {
    record.kind = TileRecord::Kind::kRaw;
    record.offset = arena.Allocate(RoundUp(raw_bytes));
    WriteRaw(kernels, job, scratch, parameter, arena.memory() + record.offset);
    return record;
  }
  record.kind = TileRecord::Kind::kLog;
  record.num_codes = scratch.num_codes;
  record.num_exceptions = static_cast<uint16_t>(scratch.num_exceptions);
  record.offset = arena.Allocate(RoundUp(log_bytes));
  PackLog(scratch, parameter.dtype, arena.memory() + record.offset);
  return record;
}

// The most bytes that the logs of `parameters` can take.
size_t WorstCaseLogBytes(absl::Span<const ParameterSwitch> parameters) {
  size_t bytes = 0;
  for (const ParameterSwitch& parameter : parameters) {
    if (parameter.to.records == nullptr) continue;
    for (int64_t i = 0; i < parameter.grid->num_tiles(); ++i) {
      bytes += RoundUp(RawTileBytes(parameter.grid->tile(i), parameter.dtype));
    }
  }
  return bytes;
}

}  // namespace

CpuSwitchPass::CpuSwitchPass()
    : kernels_(BestSwitchKernels()), pool_(at::get_num_threads()) {}

void CpuSwitchPass::Reserve(int max_rank, int max_terms) {
  const auto threads = static_cast<size_t>(pool_.threads());
  if (!scratch_.empty() && max_rank <= max_rank_ && max_terms <= max_terms_) {
    return;
  }
  std::vector<std::unique_ptr<TileScratch>> scratch;
  max_rank = std::max(max_rank, max_rank_);
  max_terms = std::max(max_terms, max_terms_);
  for (size_t i = 0; i < threads; ++i) {
    scratch.push_back(std::make_unique<TileScratch>(max_rank, max_terms));
  }
  scratch_ = std::move(scratch);
  max_rank_ = max_rank;
  max_terms_ = max_terms;
}

void CpuSwitchPass::ForEach(size_t count,
                            const std::function<void(size_t)>& f) {
  pool_.ForEach(count, f);
}

TileGrid CpuSwitchPass::Grid(const at::Tensor& parameter) const {
  const MatrixSize size = MatrixSizeOf(parameter);
  return {size.rows, size.cols};
}

absl::Status CpuSwitchPass::ResetLog(
    int log, absl::Span<const ParameterSwitch> parameters) {
  return logs_[log].Reset(WorstCaseLogBytes(parameters));
}

int64_t CpuSwitchPass::log_bytes(int log) const {
  return static_cast<int64_t>(logs_[log].used());
}

int64_t CpuSwitchPass::reserved_log_bytes(int log) const {
  return static_cast<int64_t>(logs_[log].high_water());
}

absl::Status CpuSwitchPass::Run(SwitchWork& work) {
  const std::vector<uint64_t> first = FirstTiles(work.parameters);
  const uint64_t num_tiles = first.back();
  work.done.assign(num_tiles, 0);
  FirstError error;
  std::atomic<uint64_t> next{0};
  const auto run = [&](uint64_t number, TileScratch& scratch) {
    const auto after = std::upper_bound(first.begin(), first.end(), number);
    const auto index = static_cast<size_t>(after - first.begin()) - 1;
    const ParameterSwitch& parameter = work.parameters[index];
    try {
      if (work.fault) work.fault(parameter.name);
      const bool intact =
          RunTile(work, parameter, static_cast<int64_t>(number - first[index]),
                  scratch);
      work.done[number] = 1;
      if (!intact && !work.ignore_drift) error.Set(DriftError(parameter.name));
    } catch (...) {
      error.Set(StatusFromCurrentException());
    }
  };
  // Tiles are handed out one by one, as their costs differ and a thread may be
  // slowed down by others.
  pool_.RunOnAll([&](int thread) {
    TileScratch& scratch = *scratch_[static_cast<size_t>(thread)];
    while (!error.failed()) {
      const uint64_t number = next.fetch_add(1, std::memory_order_relaxed);
      if (number >= num_tiles) break;
      if (!work.todo.empty() && work.todo[number] == 0) continue;
      run(number, scratch);
    }
  });
  return error.Take();
}

bool CpuSwitchPass::RunTile(const SwitchWork& work,
                            const ParameterSwitch& parameter, int64_t tile,
                            TileScratch& scratch) {
  const TileJob job = MakeJob(parameter, tile, logs_[work.old_log]);
  if (parameter.to.merged != nullptr && parameter.extract == nullptr) {
    // W0 was extracted, and so checked, before.
    CopyTile(parameter.to.merged, parameter.live, job.range, job.cols,
             WeightDtypeSize(parameter.dtype));
    return true;
  }
  const uint64_t checksum = kernels_.For(parameter.dtype)(job, scratch);
  if (job.keep_log) {
    parameter.to.records[tile] =
        StoreLog(kernels_, job, parameter, scratch, logs_[work.new_log]);
  }
  return checksum == parameter.checksums[tile];
}

void CpuSwitchPass::Checksum(const at::Tensor& live, const TileGrid& grid,
                             uint64_t* sums) {
  const SwitchTileFunction run =
      kernels_.For(ToWeightDtype(live.scalar_type()));
  std::atomic<int64_t> next{0};
  pool_.RunOnAll([&](int) {
    TileScratch scratch(1, 1);
    for (int64_t tile = next++; tile < grid.num_tiles(); tile = next++) {
      // From the weights to the weights: the pass then only reads and sums.
      TileJob job;
      job.live = live.data_ptr();
      job.cols = grid.cols();
      job.range = grid.tile(tile);
      sums[tile] = run(job, scratch);
    }
  });
}

}  // namespace graft
