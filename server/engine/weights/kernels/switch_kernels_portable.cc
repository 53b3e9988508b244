// For any processor.

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/scalar_rows.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {
namespace {

struct Portable {
  using DeltaRow = const float*;
  static DeltaRow LoadRow(const float* d) { return d; }

  template <class Use>
  static void WithProduct(FactorFormat format, int rank, const void* up,
                          const void* down, Use use) {
    StoredSums sums;
    for (int k = 0; k < rank; ++k) {
      float row[kBlockCols];
      for (int j = 0; j < kBlockCols; ++j) {
        row[j] = WidenElement(format, down, int64_t{k} * kBlockCols + j);
      }
      for (int i = 0; i < kBlockRows; ++i) {
        const float factor = static_cast<const float*>(up)[k * kBlockRows + i];
        float* const to = sums.values + i * kBlockCols;
        for (int j = 0; j < kBlockCols; ++j) {
          to[j] = __builtin_fmaf(factor, row[j], to[j]);
        }
      }
    }
    use(sums);
  }

  template <class Weight>
  static void RestoreRow(const typename Weight::Bits* m, DeltaRow d,
                         uint32_t valid, const int8_t*& codes,
                         typename Weight::Bits* w0) {
    ScalarRestoreRow<Weight, ScalarConvert<Weight>>(m, d, valid, codes, w0);
  }

  template <class Weight>
  static int MergeRow(const typename Weight::Bits* w0, DeltaRow d,
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
