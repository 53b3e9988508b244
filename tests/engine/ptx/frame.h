#ifndef GRAFT_TESTS_ENGINE_PTX_FRAME_H_
#define GRAFT_TESTS_ENGINE_PTX_FRAME_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "tests/engine/ptx/lane.h"
#include "tests/engine/ptx/module.h"

namespace graft::ptx {

// What a name in a PTX file stands for.
struct Variable {
  enum class Kind { kRegister, kParameter, kShared };
  Kind kind = Kind::kRegister;
  Slot slot = 0;       // kShared: the address
  uint32_t bytes = 0;  // kRegister: 4 or 8
};

// Gives out the slots of a frame, to names in nested scopes and to constants.
class FrameLayout {
 public:
  FrameLayout() { OpenScope(); }

  void OpenScope() { scopes_.emplace_back(); }
  // REQUIRES: one that is open.
  void CloseScope() { scopes_.pop_back(); }

  // A slot of its own for so many bytes, at a multiple of 8 unless they are 4.
  Slot Allocate(uint32_t bytes);

  // In the innermost scope. Replaces another one of this name there.
  void Declare(absl::string_view name, const Variable& variable);
  // `name`0 to `name`(count - 1).
  void DeclareRegisters(absl::string_view name, uint32_t count, uint32_t bytes);

  // Null if no scope has that name. Until the next call of any function here.
  const Variable* Find(absl::string_view name);

  // The slot that holds `value` in as many of its low bytes as are read.
  Slot ConstantSlot(uint64_t value);

  std::vector<Constant> constants() const;
  uint32_t bytes() const { return bytes_; }

 private:
  struct Registers {
    Slot first;
    uint32_t count;
    uint32_t bytes;
  };
  struct Scope {
    absl::flat_hash_map<absl::string_view, Variable> variables;
    absl::flat_hash_map<absl::string_view, Registers> registers;
  };

  std::vector<Scope> scopes_;
  std::map<uint64_t, Slot> constants_;
  Variable found_;
  uint32_t bytes_ = 0;
};

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_FRAME_H_
