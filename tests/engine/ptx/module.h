#ifndef GRAFT_TESTS_ENGINE_PTX_MODULE_H_
#define GRAFT_TESTS_ENGINE_PTX_MODULE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tests/engine/ptx/opcode.h"

namespace graft::ptx {

struct Instruction {
  Operation run = nullptr;
  uint32_t operands = 0;  // the first of them in the module's table
  // The slot of the predicate without which it is skipped; the lowest bit is
  // set where it is skipped with it.
  Slot guard = 0;
};

// What only messages and meetings need of an instruction.
struct InstructionOrigin {
  const Opcode* opcode = nullptr;  // null: a branch, a call or the end
  int line = 0;
};

struct Parameter {
  Slot slot = 0;
  uint32_t bytes = 0;
};

struct Function {
  static constexpr uint32_t kNoBody = UINT32_MAX;

  bool is_kernel = false;
  uint32_t entry = kNoBody;  // the pc
  std::vector<Parameter> parameters;
  std::vector<Parameter> results;
  uint32_t max_threads = 0;  // of a block; 0: not said
};

// Slots of what is the same in all of a warp, or the lane's own.
struct SpecialRegisters {
  Slot tid = 0;  // all .x
  Slot ctaid = 0;
  Slot nctaid = 0;
};

struct Constant {
  Slot slot = 0;
  uint64_t value = 0;
};

// A PTX file, decoded: operands are slots of a frame that all functions share,
// each with slots of its own, as none calls itself.
struct Module {
  std::vector<Instruction> code;
  std::vector<InstructionOrigin> origins;  // of each in `code`
  std::vector<Slot> operands;
  std::vector<Constant> constants;
  SpecialRegisters special;
  uint32_t frame_bytes = 0;
  std::map<std::string, Function> functions;  // by their (mangled) names
};

// Of the text of a PTX file. An error names the line: of what is not in the
// part of PTX that opcode.h lists, too.
absl::StatusOr<Module> ParseModule(absl::string_view text);

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_MODULE_H_
