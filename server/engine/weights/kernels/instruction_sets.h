#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_INSTRUCTION_SETS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_INSTRUCTION_SETS_H_

#include "server/engine/weights/kernels/switch_tile.h"

// The functions of each instruction set, one file each. Look before use:
// BestSwitchKernels() does.
namespace graft {

extern const SwitchKernels kPortableSwitchKernels;
#if defined(__x86_64__)
extern const SwitchKernels kAvx2SwitchKernels;        // + FMA, F16C
extern const SwitchKernels kAvx512SwitchKernels;      // F, BW, DQ, VL, VBMI2
extern const SwitchKernels kAvx512Bf16SwitchKernels;  // + BF16
extern const SwitchKernels kAmxBf16SwitchKernels;     // + AMX with BF16
#endif

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_INSTRUCTION_SETS_H_
