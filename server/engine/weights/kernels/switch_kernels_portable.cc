// For any processor.

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/scalar_rows.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {
namespace {

struct Portable {
  static void Product(FactorFormat format, int rank, const void* up,
                      const void* down, float coefficient, bool add, float* d) {
    float p[kBlockSize] = {};
    for (int k = 0; k < rank; ++k) {
      float row[kBlockCols];
      for (int j = 0; j < kBlockCols; ++j) {
        row[j] = WidenElement(format, down, int64_t{k} * kBlockCols + j);
      }
      for (int i = 0; i < kBlockRows; ++i) {
        const float factor = static_cast<const float*>(up)[k * kBlockRows + i];
        for (int j = 0; j < kBlockCols; ++j) {
          p[i * kBlockCols + j] =
              __builtin_fmaf(factor, row[j], p[i * kBlockCols + j]);
        }
      }
    }
    Accumulate(p, coefficient, add, d);
  }

  template <class Weight>
  static void RestoreRow(const typename Weight::Bits* m, const float* d,
                         uint32_t valid, const int8_t*& codes,
                         typename Weight::Bits* w0) {
    ScalarRestoreRow<Weight, ScalarConvert<Weight>>(m, d, valid, codes, w0);
  }

  template <class Weight>
  static int MergeRow(const typename Weight::Bits* w0, const float* d,
                      uint32_t valid, typename Weight::Bits* m, int8_t* codes,
                      uint32_t& exceptions) {
    return ScalarMergeRow<Weight, ScalarConvert<Weight>>(w0, d, valid, m, codes,
                                                         exceptions);
  }
};

}  // namespace

const SwitchKernels kPortableSwitchKernels =
    MakeSwitchKernels<Portable>("portable", /*bfloat16_pairs=*/false);

}  // namespace graft
