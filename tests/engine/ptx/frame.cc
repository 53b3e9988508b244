#include "tests/engine/ptx/frame.h"

#include "absl/strings/numbers.h"

namespace graft::ptx {

Slot FrameLayout::Allocate(uint32_t bytes) {
  const uint32_t alignment = bytes == 4 ? 4 : 8;
  const Slot slot = (bytes_ + alignment - 1) / alignment * alignment;
  bytes_ = slot + bytes;
  return slot;
}

void FrameLayout::Declare(absl::string_view name, const Variable& variable) {
  scopes_.back().variables[name] = variable;
}

void FrameLayout::DeclareRegisters(absl::string_view name, uint32_t count,
                                   uint32_t bytes) {
  const Slot first = Allocate(8);
  bytes_ = first + count * bytes;
  scopes_.back().registers[name] = {first, count, bytes};
}

const Variable* FrameLayout::Find(absl::string_view name) {
  const absl::string_view stem =
      name.substr(0, name.find_last_not_of("0123456789") + 1);
  uint32_t number = 0;
  const bool numbered = absl::SimpleAtoi(name.substr(stem.size()), &number);
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const auto variable = scope->variables.find(name);
    if (variable != scope->variables.end()) return &variable->second;
    const auto registers = scope->registers.find(stem);
    if (!numbered || registers == scope->registers.end()) continue;
    const Registers& all = registers->second;
    if (number >= all.count) continue;
    found_ = {Variable::Kind::kRegister, all.first + number * all.bytes,
              all.bytes};
    return &found_;
  }
  return nullptr;
}

Slot FrameLayout::ConstantSlot(uint64_t value) {
  const auto [at, is_new] = constants_.try_emplace(value, 0);
  if (is_new) at->second = Allocate(sizeof(value));
  return at->second;
}

std::vector<Constant> FrameLayout::constants() const {
  std::vector<Constant> constants;
  for (const auto& [value, slot] : constants_) {
    constants.push_back({slot, value});
  }
  return constants;
}

}  // namespace graft::ptx
