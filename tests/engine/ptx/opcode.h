#ifndef GRAFT_TESTS_ENGINE_PTX_OPCODE_H_
#define GRAFT_TESTS_ENGINE_PTX_OPCODE_H_

#include <cstddef>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "tests/engine/ptx/lane.h"

// The instructions of PTX that the kernels have, as NVIDIA's "Parallel Thread
// Execution ISA" defines them. An instruction with other modifiers or types is
// another one, and unknown unless it is listed.
namespace graft::ptx {

// For one lane. The operands in the order of the text: those in braces one
// after the other, an address as its base and its offset.
using Operation = Outcome (*)(Lane& lane, const Slot* operands);

// For all lanes of a warp, which stand at the same instruction. Returns what is
// wrong, or null.
using Meeting = const char* (*)(absl::Span<Lane> lanes, const Slot* operands);

struct Opcode {
  absl::string_view name;
  size_t num_operands = 0;
  Operation run = nullptr;
  // If set, `run` returns kMeets.
  Meeting meet = nullptr;
  // Whether what lanes wrote before they met is seen by the others afterwards.
  bool orders_memory = false;
};

// Between registers: arithmetic_opcodes.cc.
absl::Span<const Opcode> ArithmeticOpcodes();
// Between registers and memory: memory_opcodes.cc.
absl::Span<const Opcode> MemoryOpcodes();
// Where lanes meet: meeting_opcodes.cc.
absl::Span<const Opcode> MeetingOpcodes();
// Any of these; null if there is none.
const Opcode* FindOpcode(absl::string_view name);

// Branches, calls and the end, whose operands the parser makes:
// control_opcodes.cc. Operands of Branch: the pc. Of Call: the pc, then how
// many arguments, then of each its slot, that of the parameter and its bytes.
// Of Copy: as Call's, without the pc.
Outcome Branch(Lane& lane, const Slot* operands);
Outcome Call(Lane& lane, const Slot* operands);
Outcome Copy(Lane& lane, const Slot* operands);
Outcome Return(Lane& lane, const Slot* operands);
Outcome FallOff(Lane& lane, const Slot* operands);

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_OPCODE_H_
