// For x86-64 processors with AVX512-BF16 too (Zen 4, Cooper Lake and later).

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/switch_rows_avx512_bf16.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {

const SwitchKernels kAvx512Bf16SwitchKernels =
    MakeSwitchKernels<Avx512Bf16>("avx512_bf16", FactorFormat::kBFloat16Pairs);

}  // namespace graft
