#include "tests/engine/ptx/opcode.h"

#include "absl/container/flat_hash_map.h"

namespace graft::ptx {

const Opcode* FindOpcode(absl::string_view name) {
  static const auto* const opcodes = [] {
    auto* const all = new absl::flat_hash_map<absl::string_view, const Opcode*>;
    for (const auto table :
         {ArithmeticOpcodes(), MemoryOpcodes(), MeetingOpcodes()}) {
      for (const Opcode& opcode : table) all->emplace(opcode.name, &opcode);
    }
    return all;
  }();
  const auto at = opcodes->find(name);
  return at == opcodes->end() ? nullptr : at->second;
}

}  // namespace graft::ptx
