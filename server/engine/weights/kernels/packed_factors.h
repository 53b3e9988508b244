#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_PACKED_FACTORS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_PACKED_FACTORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "server/engine/weights/kernels/switch_tile.h"

namespace graft {

// A row-major matrix in host memory. A view.
struct MatrixView {
  FactorFormat format = FactorFormat::kFloat32;  // no pairs or tiles
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
};

// Memory aligned for vector loads. Throws std::bad_alloc.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size);  // zeros

  uint8_t* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* data) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_ = 0;
};

// The two factors of a low-rank product, copied into the form that the switch
// reads (LowRankFactors). 16-bit factors stay 16-bit if both have one type, so
// what a file holds is what the product uses. Immutable.
class PackedFactors {
 public:
  PackedFactors() = default;
  // `up` [rows, r], `down` [r, cols]. `bfloat16_format`: SwitchKernels'. Of
  // few ranks no tiles are made, but pairs: they would be mostly padding.
  PackedFactors(const MatrixView& up, const MatrixView& down,
                FactorFormat bfloat16_format);

  const LowRankFactors& factors() const { return factors_; }
  size_t bytes() const { return up_.size() + down_.size(); }

 private:
  AlignedBytes up_;
  AlignedBytes down_;
  LowRankFactors factors_;  // points into the two
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_PACKED_FACTORS_H_
