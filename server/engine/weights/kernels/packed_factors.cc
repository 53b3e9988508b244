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

// The place of (lane, k) in a panel of `lanes` lanes.
int64_t PlaceInPanel(int64_t lane, int64_t k, int lanes, bool pairs) {
  return pairs ? (k / 2 * lanes + lane) * 2 + k % 2 : k * lanes + lane;
}

// Packs `count` lanes of `rank` elements each; element (lane, k) of the matrix
// is at lane * lane_stride + k * rank_stride.
AlignedBytes Pack(const MatrixView& matrix, int64_t count, int64_t lane_stride,
                  int64_t rank, int64_t rank_stride, int64_t padded_rank,
                  int lanes, FactorFormat format) {
  const size_t size = ElementSize(format);
  const int64_t panels = (count + lanes - 1) / lanes;
  AlignedBytes packed(static_cast<size_t>(panels * lanes * padded_rank) * size);
  for (int64_t lane = 0; lane < count; ++lane) {
    const int64_t panel = lane / lanes * lanes * padded_rank;
    for (int64_t k = 0; k < rank; ++k) {
      const uint32_t bits =
          Element(matrix, lane * lane_stride + k * rank_stride, format);
      const int64_t place =
          panel + PlaceInPanel(lane % lanes, k, lanes,
                               format == FactorFormat::kBFloat16Pairs);
      std::memcpy(packed.data() + place * size, &bits, size);
    }
  }
  return packed;
}

FactorFormat ChooseFormat(FactorFormat up, FactorFormat down, bool pairs) {
  if (up != down) return FactorFormat::kFloat32;
  if (up == FactorFormat::kBFloat16 && pairs) {
    return FactorFormat::kBFloat16Pairs;
  }
  return up;
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
                             bool bfloat16_pairs) {
  const int64_t rank = up.cols;
  const FactorFormat format =
      ChooseFormat(up.format, down.format, bfloat16_pairs);
  const int64_t padded_rank =
      format == FactorFormat::kBFloat16Pairs ? (rank + 1) / 2 * 2 : rank;
  up_ = Pack(up, up.rows, rank, rank, 1, padded_rank, kBlockRows, format);
  down_ = Pack(down, down.cols, 1, rank, down.cols, padded_rank, kBlockCols,
               format);
  factors_ = {format, static_cast<int>(padded_rank), up_.data(), down_.data()};
}

}  // namespace graft
