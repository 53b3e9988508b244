#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_TILE_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_TILE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/engine/weights/kernels/delta_term.h"

// The pass over the weights: one tile of one parameter from one adapter set to
// another. No tensor library here: these files are compiled once per
// instruction set.
namespace graft {

// Bytes per element.
size_t WeightDtypeSize(WeightDtype dtype);

// Work is done in blocks of 8 x 32 weights: what the accumulators of a product
// fill of the vector registers.
inline constexpr int kBlockRows = 8;
inline constexpr int kBlockCols = 32;
inline constexpr int kBlockSize = kBlockRows * kBlockCols;
// So that a place in a tile fits 16 bits, and its scratch the L2 cache.
inline constexpr int64_t kMaxTileElements = 32768;

// ---- Where: a parameter as a matrix [rows, cols], cut into tiles ------------

// Immutable. Tiles begin at multiples of kBlockRows and kBlockCols.
class TileGrid {
 public:
  TileGrid() = default;
  TileGrid(int64_t rows, int64_t cols);
  // Tiles of this size, in multiples of kBlockRows and kBlockCols.
  TileGrid(int64_t rows, int64_t cols, int64_t tile_rows, int64_t tile_cols);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t num_tiles() const { return tiles_down_ * tiles_across_; }
  TileRange tile(int64_t index) const;
  // Blocks that a tile is made of, those at the edges included.
  static int64_t NumBlocks(const TileRange& tile);

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t tile_rows_ = kBlockRows;
  int64_t tile_cols_ = kBlockCols;
  int64_t tiles_down_ = 0;
  int64_t tiles_across_ = 0;
};

// The change D of a parameter.
using DeltaTerms = absl::Span<const DeltaTerm>;

// ---- The log of one tile ----------------------------------------------------

// A log ready to be read. Views.
struct TileLog {
  TileRecord::Kind kind = TileRecord::Kind::kNone;
  const uint8_t* codes = nullptr;  // packed
  const uint8_t* positions = nullptr;
  const uint8_t* values = nullptr;
  uint32_t num_codes = 0;
  uint32_t num_exceptions = 0;
  const uint8_t* raw = nullptr;
};

// What one thread needs. The log of the tile that was switched last lies here
// until it is written to the arena.
class TileScratch {
 public:
  // For products of at most `max_rank` ranks and `max_terms` terms.
  TileScratch(int max_rank, int max_terms);

  // The rows of `up` of the row panel at hand, of each product; and room to
  // widen them.
  std::vector<const void*> up_panels;
  float* widened_up_panel(int index) {
    return widened_up_panels_.data() + index * panel_size_;
  }

  // Codes one to a byte, in order, with room for a block more.
  std::vector<int8_t> old_codes;
  std::vector<int8_t> codes;
  uint32_t num_codes = 0;
  std::vector<uint16_t> positions;
  std::vector<uint32_t> values;
  uint32_t num_exceptions = 0;
  // Room for the largest log, packed.
  std::vector<uint8_t> packed;

 private:
  size_t panel_size_;
  std::vector<float> widened_up_panels_;
};

// ---- The pass ---------------------------------------------------------------

struct TileJob {
  void* live = nullptr;  // the parameter's first element; rows are contiguous
  int64_t cols = 0;      // of the parameter
  TileRange range;

  // Where W0 comes from: `pristine`, laid out like `live`, if set; else `live`
  // with the old terms subtracted and the log applied.
  const void* pristine = nullptr;
  DeltaTerms old_terms;
  TileLog old_log;

  // Where it goes: with the new terms added to `live` and a log left in the
  // scratch if `keep_log`; or, `live` staying as it is, W0 alone to `extract`,
  // laid out like `live`, or to `extract_blocks`, block by block.
  DeltaTerms new_terms;
  bool keep_log = false;
  void* extract = nullptr;
  void* extract_blocks = nullptr;
};

// Switches one tile and returns a checksum of its W0; allocates nothing.
// Deterministic: D has the same bits for the same terms whenever it is
// computed, with any number of threads.
using SwitchTileFunction = uint64_t (*)(const TileJob& job,
                                        TileScratch& scratch);

// Writes D of `range` to `delta`, float32, row-major with `stride` elements a
// row.
using FillDeltaFunction = void (*)(DeltaTerms terms, const TileRange& range,
                                   int64_t cols, float* delta, int64_t stride,
                                   TileScratch& scratch);

// One instruction set's functions.
struct SwitchKernels {
  const char* name = "";
  // How bfloat16 factors are to be packed. Pairs and tiles are summed in
  // another order, so only with them do bits differ between instruction sets.
  FactorFormat bfloat16_format = FactorFormat::kBFloat16;
  SwitchTileFunction switch_tile[3] = {};  // by WeightDtype
  FillDeltaFunction fill_delta = nullptr;

  SwitchTileFunction For(WeightDtype dtype) const {
    return switch_tile[static_cast<int>(dtype)];
  }
};

// The fastest that this processor can run.
const SwitchKernels& BestSwitchKernels();

// All that it can run, the portable ones first. For tests.
std::vector<const SwitchKernels*> RunnableSwitchKernels();

// The log that lies in `scratch`, packed to `out`, which has room for
// PackedLogBytes(...). For a log that is larger than all of W0 see
// RawTileBytes.
size_t PackedLogBytes(const TileScratch& scratch, WeightDtype dtype);
void PackLog(const TileScratch& scratch, WeightDtype dtype, uint8_t* out);
size_t RawTileBytes(const TileRange& tile, WeightDtype dtype);

// What `record` says of the log of a tile, which lies in `memory`. A record
// that no log can have, or whose log would lie elsewhere, is taken for one
// without codes: memory has changed it, and the checksum will tell.
TileLog ReadRecord(const TileRecord& record, absl::Span<const uint8_t> memory,
                   const TileRange& tile, WeightDtype dtype);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_SWITCH_TILE_H_
