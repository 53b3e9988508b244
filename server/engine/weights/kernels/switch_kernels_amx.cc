// For x86-64 processors with AMX-BF16 too (Sapphire Rapids and later): products
// of bfloat16 factors are made by the tile unit, 8 x 16 sums of 32 ranks at a
// time. The sums are float32 ("Intel Architecture Instruction Set Extensions
// Programming Reference", TDPBF16PS: even and odd ranks apart, then together).

#include <immintrin.h>

#include <cstdint>

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/switch_rows_avx512_bf16.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {
namespace {

// Ranks in one tile of a factor, and in the last one when half of it is left.
constexpr int kTileRanks = 32;
constexpr int kHalfTileRanks = kTileRanks / 2;
constexpr int kTileCols = 16;

// The eight tile registers, for LDTILECFG.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr void Set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
  // 0 to 3 hold sums, 4 and 5 ranks of `up` and `down`, 6 and 7 half as many.
  constexpr TileConfig() {
    for (int i = 0; i < 4; ++i) Set(i, kBlockRows, kTileCols * 4);
    Set(4, kBlockRows, kTileRanks * 2);
    Set(5, kTileRanks / 2, kTileCols * 4);
    Set(6, kBlockRows, kHalfTileRanks * 2);
    Set(7, kHalfTileRanks / 2, kTileCols * 4);
  }
};
static_assert(sizeof(TileConfig) == 64);

alignas(64) constexpr TileConfig kTileConfig;

constexpr int64_t kDownStride = kBlockCols * 4;  // bytes of a pair of ranks
constexpr int64_t kSumsStride = kBlockCols * 4;

// Adds to the tiles `left` and `right` the products of tile `up` with a column
// panel of `down`, which is read through `down_tile`. A macro, as the numbers
// of tiles are part of the instructions.
#define GRAFT_ADD_PRODUCTS(left, right, up, down_tile, down)   \
  _tile_loadd(down_tile, down, kDownStride);                   \
  _tile_dpbf16ps(left, up, down_tile);                         \
  _tile_loadd(down_tile, (down) + kTileCols * 4, kDownStride); \
  _tile_dpbf16ps(right, up, down_tile)

// The products of `up` [8][rank] with one column panel of `down`,
// [rank / 2][32][2], and, if kTwo, with the next one, to `products`, [8][32]
// each. float32.
template <bool kTwo>
GRAFT_INLINE void TileProducts(int rank, const uint8_t* up, const uint8_t* down,
                               float* products) {
  const int64_t up_stride = int64_t{rank} * 2;
  const int64_t panel_bytes = int64_t{rank} * kBlockCols * 2;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
  int k = 0;
  for (; k + kTileRanks <= rank; k += kTileRanks) {
    const uint8_t* const here = down + k / 2 * kDownStride;
    _tile_loadd(4, up + k * 2, up_stride);
    GRAFT_ADD_PRODUCTS(0, 1, 4, 5, here);
    if constexpr (kTwo) {
      GRAFT_ADD_PRODUCTS(2, 3, 4, 5, here + panel_bytes);
    }
  }
  if (k < rank) {
    const uint8_t* const here = down + k / 2 * kDownStride;
    _tile_loadd(6, up + k * 2, up_stride);
    GRAFT_ADD_PRODUCTS(0, 1, 6, 7, here);
    if constexpr (kTwo) {
      GRAFT_ADD_PRODUCTS(2, 3, 6, 7, here + panel_bytes);
    }
  }
  _tile_stored(0, products, kSumsStride);
  _tile_stored(1, products + kTileCols, kSumsStride);
  if constexpr (kTwo) {
    _tile_stored(2, products + kBlockSize, kSumsStride);
    _tile_stored(3, products + kBlockSize + kTileCols, kSumsStride);
  }
}
#undef GRAFT_ADD_PRODUCTS

struct AmxBf16 : Avx512Bf16 {
  // The tile registers' shapes. Cleared afterwards: a thread that has them in
  // use is slower to put aside, and LibTorch has shapes of its own.
  struct Session {
    Session() { _tile_loadconfig(&kTileConfig); }
    ~Session() { _tile_release(); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
  };

  // The unit takes some fifty cycles from factors to sums; meanwhile it can
  // begin with the neighbours'.
  static constexpr int kStagedBlocks = 4;

  static void StageProducts(int rank, const void* up, const void* down,
                            int num_blocks, float* products) {
    const auto* const up_bytes = static_cast<const uint8_t*>(up);
    const auto* panel = static_cast<const uint8_t*>(down);
    int block = 0;
    for (; block + 2 <= num_blocks; block += 2) {
      TileProducts<true>(rank, up_bytes, panel, products);
      panel += int64_t{rank} * kBlockCols * 4;
      products += 2 * kBlockSize;
    }
    if (block < num_blocks) {
      TileProducts<false>(rank, up_bytes, panel, products);
    }
  }

  template <class Use>
  static GRAFT_INLINE void WithProduct(FactorFormat format, int rank,
                                       const void* up, const void* down,
                                       Use use) {
    if (format == FactorFormat::kBFloat16Tiles) {
      alignas(64) float products[kBlockSize];
      TileProducts<false>(rank, static_cast<const uint8_t*>(up),
                          static_cast<const uint8_t*>(down), products);
      Sums sums;
      for (int i = 0; i < kBlockRows; ++i) {
        const Floats row = LoadFloats(products + i * kBlockCols);
        sums.values[i][0] = row.low;
        sums.values[i][1] = row.high;
      }
      return use(sums);
    }
    Avx512Bf16::WithProduct(format, rank, up, down, use);
  }
};

}  // namespace

const SwitchKernels kAmxBf16SwitchKernels =
    MakeSwitchKernels<AmxBf16>("amx_bf16", FactorFormat::kBFloat16Tiles);

}  // namespace graft
