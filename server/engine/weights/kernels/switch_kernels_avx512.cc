// For x86-64 processors with AVX-512 F, BW, DQ, VL and VBMI2 (Ice Lake, Zen 4
// and later).

#include "server/engine/weights/kernels/instruction_sets.h"
#include "server/engine/weights/kernels/switch_rows_avx512.h"
#include "server/engine/weights/kernels/switch_tile_impl.h"

namespace graft {

const SwitchKernels kAvx512SwitchKernels =
    MakeSwitchKernels<Avx512>("avx512", FactorFormat::kBFloat16);

}  // namespace graft
