#include "server/engine/weights/kernels/packed_factors.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {
namespace {

constexpr size_t kAlignment = 64;

size_t ElementSize(FactorFormat format) {
  return format == FactorFormat::kFloat32 ? 4 : 2;
}

// Element i as the bits that `format` has: a copy, or widened to float32.
uint32_t Element(const MatrixView& matrix, int64_t i, FactorFormat format) {
  if (matrix.format == FactorFormat::kFloat32) {
    uint32_t bits;
    std::memcpy(&bits, static_cast<const uint8_t*>(matrix.data) + i * 4, 4);
    return bits;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const uint8_t*>(matrix.data) + i * 2, 2);
  if (format != FactorFormat::kFloat32) return bits;
  return FloatBits(matrix.format == FactorFormat::kFloat16
                       ? Float16Weight::Widen(bits)
                       : BFloat16Weight::Widen(bits));
}

// How a panel of some lanes (rows of `up`, columns of `down`) is laid out.
enum class PanelOrder { kByRank, kByPairOfRanks, kByLane };

// The place of (lane, k) in a panel of `lanes` lanes and `rank` ranks.
int64_t PlaceInPanel(int64_t lane, int64_t k, int lanes, int64_t rank,
                     PanelOrder order) {
  switch (order) {
    case PanelOrder::kByPairOfRanks:
      return (k / 2 * lanes + lane) * 2 + k % 2;
    case PanelOrder::kByLane:
      return lane * rank + k;
    case PanelOrder::kByRank:
      break;
  }
  return k * lanes + lane;
}

// Packs `count` lanes of `rank` elements each; element (lane, k) of the matrix
// is at lane * lane_stride + k * rank_stride.
AlignedBytes Pack(const MatrixView& matrix, int64_t count, int64_t lane_stride,
                  int64_t rank, int64_t rank_stride, int64_t padded_rank,
                  int lanes, FactorFormat format, PanelOrder order) {
  const size_t size = ElementSize(format);
  const int64_t panels = (count + lanes - 1) / lanes;
  AlignedBytes packed(static_cast<size_t>(panels * lanes * padded_rank) * size);
  for (int64_t lane = 0; lane < count; ++lane) {
    const int64_t panel = lane / lanes * lanes * padded_rank;
    for (int64_t k = 0; k < rank; ++k) {
      const uint32_t bits =
          Element(matrix, lane * lane_stride + k * rank_stride, format);
      const int64_t place =
          panel + PlaceInPanel(lane % lanes, k, lanes, padded_rank, order);
      std::memcpy(packed.data() + place * size, &bits, size);
    }
  }
  return packed;
}

FactorFormat ChooseFormat(FactorFormat up, FactorFormat down, int64_t rank,
                          FactorFormat bfloat16_format) {
  // Fewer ranks would be mostly padding.
  constexpr int64_t kMinTileRank = 9;
  if (up != down) return FactorFormat::kFloat32;
  if (up != FactorFormat::kBFloat16) return up;
  return bfloat16_format == FactorFormat::kBFloat16Tiles && rank < kMinTileRank
             ? FactorFormat::kBFloat16Pairs
             : bfloat16_format;
}

// What the rank of a format is a multiple of.
int64_t RankMultiple(FactorFormat format) {
  switch (format) {
    case FactorFormat::kBFloat16Pairs:
      return 2;
    case FactorFormat::kBFloat16Tiles:
      return 16;
    default:
      return 1;
  }
}

PanelOrder UpOrder(FactorFormat format) {
  switch (format) {
    case FactorFormat::kBFloat16Pairs:
      return PanelOrder::kByPairOfRanks;
    case FactorFormat::kBFloat16Tiles:
      return PanelOrder::kByLane;
    default:
      return PanelOrder::kByRank;
  }
}

PanelOrder DownOrder(FactorFormat format) {
  return UpOrder(format) == PanelOrder::kByRank ? PanelOrder::kByRank
                                                : PanelOrder::kByPairOfRanks;
}

}  // namespace

AlignedBytes::AlignedBytes(size_t size) : size_(size) {
  // A block more, so that a vector load at the end stays inside.
  const size_t rounded = (size + 2 * kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded)));
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, rounded);
}

void AlignedBytes::Free::operator()(uint8_t* data) const { std::free(data); }

PackedFactors::PackedFactors(const MatrixView& up, const MatrixView& down,
                             FactorFormat bfloat16_format) {
  const int64_t rank = up.cols;
  const FactorFormat format =
      ChooseFormat(up.format, down.format, rank, bfloat16_format);
  const int64_t multiple = RankMultiple(format);
  const int64_t padded_rank = (rank + multiple - 1) / multiple * multiple;
  up_ = Pack(up, up.rows, rank, rank, 1, padded_rank, kBlockRows, format,
             UpOrder(format));
  down_ = Pack(down, down.cols, 1, rank, down.cols, padded_rank, kBlockCols,
               format, DownOrder(format));
  factors_ = {format, static_cast<int>(padded_rank), up_.data(), down_.data()};
}

}  // namespace graft
