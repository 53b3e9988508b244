#include "server/engine/weights/kernels/switch_tile.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstring>

#include "server/engine/weights/kernels/instruction_sets.h"

namespace graft {
namespace {

// A tile is as wide as the matrix up to here, so that rows are read in long
// runs; then rows are added until it is full.
constexpr int64_t kMaxTileCols = 4096;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Behind an odd number of codes lies one that nobody reads.
void PackCodes(const int8_t* __restrict codes, uint32_t pairs,
               uint8_t* __restrict out) {
  for (uint32_t i = 0; i < pairs; ++i) {
    uint16_t both;
    std::memcpy(&both, codes + 2 * i, sizeof(both));
    out[i] = static_cast<uint8_t>((both & 0x0f) | ((both >> 4) & 0xf0));
  }
}

#if defined(__x86_64__)
// Features that not every compiler's __builtin_cpu_supports knows ("Intel 64
// and IA-32 Architectures Software Developer's Manual", CPUID). REQUIRES: the
// system keeps the registers that they use.
struct MoreFeatures {
  bool f16c = false;
  bool avx512bf16 = false;
  bool amx_bf16 = false;  // with AMX-TILE

  MoreFeatures() {
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) != 0) f16c = (c >> 29 & 1) != 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
      amx_bf16 = (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
      avx512bf16 = (a >> 5 & 1) != 0;
    }
  }
};

// Linux gives a process the tile registers of AMX when it asks for them
// (Documentation/arch/x86/xstate.rst); false if it does not.
bool AskForTileRegisters() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

size_t WeightDtypeSize(WeightDtype dtype) {
  return dtype == WeightDtype::kFloat32 ? 4 : 2;
}

// Rows as many as fit.
TileGrid::TileGrid(int64_t rows, int64_t cols)
    : TileGrid(rows, cols,
               kMaxTileElements /
                   std::min(RoundUp(std::max<int64_t>(cols, 1), kBlockCols),
                            kMaxTileCols) /
                   kBlockRows * kBlockRows,
               kMaxTileCols) {}

TileGrid::TileGrid(int64_t rows, int64_t cols, int64_t tile_rows,
                   int64_t tile_cols)
    : rows_(rows),
      cols_(cols),
      tile_rows_(std::min(RoundUp(rows, kBlockRows), tile_rows)),
      tile_cols_(std::min(RoundUp(cols, kBlockCols), tile_cols)) {
  if (rows == 0 || cols == 0) return;
  tiles_down_ = (rows + tile_rows_ - 1) / tile_rows_;
  tiles_across_ = (cols + tile_cols_ - 1) / tile_cols_;
}

TileRange TileGrid::tile(int64_t index) const {
  TileRange range;
  range.row = index / tiles_across_ * tile_rows_;
  range.col = index % tiles_across_ * tile_cols_;
  range.rows = std::min(tile_rows_, rows_ - range.row);
  range.cols = std::min(tile_cols_, cols_ - range.col);
  return range;
}

int64_t TileGrid::NumBlocks(const TileRange& tile) {
  return RoundUp(tile.rows, kBlockRows) * RoundUp(tile.cols, kBlockCols) /
         kBlockSize;
}

// A Hadamard product has two, and a switch two sums of terms.
TileScratch::TileScratch(int max_rank, int max_terms)
    : up_panels(static_cast<size_t>(max_terms) * 4),
      old_codes(kMaxTileElements + kBlockSize),
      codes(kMaxTileElements + kBlockSize),
      positions(kMaxTileElements + 1),
      values(kMaxTileElements + 1),
      packed(kMaxTileElements * (1 + sizeof(uint16_t) + sizeof(uint32_t))),
      panel_size_(static_cast<size_t>(max_rank) * kBlockRows),
      widened_up_panels_(panel_size_ * up_panels.size()) {}

const SwitchKernels& BestSwitchKernels() {
  static const SwitchKernels* const best = RunnableSwitchKernels().back();
  return *best;
}

std::vector<const SwitchKernels*> RunnableSwitchKernels() {
  std::vector<const SwitchKernels*> runnable = {&kPortableSwitchKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const MoreFeatures more;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !more.f16c) {
    return runnable;
  }
  runnable.push_back(&kAvx2SwitchKernels);
  if (!__builtin_cpu_supports("avx512f") ||
      !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vbmi2")) {
    return runnable;
  }
  runnable.push_back(&kAvx512SwitchKernels);
  if (!more.avx512bf16) return runnable;
  runnable.push_back(&kAvx512Bf16SwitchKernels);
  if (more.amx_bf16 && AskForTileRegisters()) {
    runnable.push_back(&kAmxBf16SwitchKernels);
  }
#endif
  return runnable;
}

size_t PackedLogBytes(const TileScratch& scratch, WeightDtype dtype) {
  return (scratch.num_codes + 1) / 2 +
         scratch.num_exceptions * (sizeof(uint16_t) + WeightDtypeSize(dtype));
}

void PackLog(const TileScratch& scratch, WeightDtype dtype, uint8_t* out) {
  const uint32_t pairs = (scratch.num_codes + 1) / 2;
  PackCodes(scratch.codes.data(), pairs, out);
  out += pairs;
  const size_t places = scratch.num_exceptions * sizeof(uint16_t);
  std::memcpy(out, scratch.positions.data(), places);
  out += places;
  if (dtype == WeightDtype::kFloat32) {
    std::memcpy(out, scratch.values.data(),
                scratch.num_exceptions * sizeof(uint32_t));
    return;
  }
  for (uint32_t i = 0; i < scratch.num_exceptions; ++i) {
    const auto value = static_cast<uint16_t>(scratch.values[i]);
    std::memcpy(out + i * sizeof(value), &value, sizeof(value));
  }
}

size_t RawTileBytes(const TileRange& tile, WeightDtype dtype) {
  return static_cast<size_t>(TileGrid::NumBlocks(tile)) * kBlockSize *
         WeightDtypeSize(dtype);
}

TileLog ReadRecord(const TileRecord& record, absl::Span<const uint8_t> memory,
                   const TileRange& tile, WeightDtype dtype) {
  TileLog log;
  if (record.kind == TileRecord::Kind::kNone) return log;
  const bool raw = record.kind == TileRecord::Kind::kRaw;
  const size_t positions_at = (size_t{record.num_codes} + 1) / 2;
  const size_t values_at =
      positions_at + record.num_exceptions * sizeof(uint16_t);
  const size_t bytes =
      raw ? RawTileBytes(tile, dtype)
          : values_at + record.num_exceptions * WeightDtypeSize(dtype);
  log.kind = TileRecord::Kind::kLog;
  log.codes = log.positions = log.values = memory.data();
  if (record.num_codes > kMaxTileElements || bytes > memory.size() ||
      record.offset > memory.size() - bytes) {
    return log;
  }
  const uint8_t* const data = memory.data() + record.offset;
  if (raw) {
    log.kind = TileRecord::Kind::kRaw;
    log.raw = data;
    return log;
  }
  log.num_codes = record.num_codes;
  log.num_exceptions = record.num_exceptions;
  log.codes = data;
  log.positions = data + positions_at;
  log.values = data + values_at;
  return log;
}

}  // namespace graft
