// For any processor.

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/scalar_rows.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {
namespace {

struct Portable : ScalarRows<ScalarConvert> {
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
};

}  // namespace

const SwitchKernels kPortableSwitchKernels =
    MakeSwitchKernels<Portable>("portable", FactorFormat::kBFloat16);

}  // namespace graft
