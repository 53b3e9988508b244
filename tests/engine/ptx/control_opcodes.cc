#include <cstring>

#include "tests/engine/ptx/opcode.h"

namespace graft::ptx {

Outcome Branch(Lane& lane, const Slot* operands) {
  if (--lane.branches_left == 0) return lane.Fail("this does not end");
  lane.pc = operands[0];
  return Outcome::kNext;
}

Outcome Call(Lane& lane, const Slot* operands) {
  Copy(lane, operands + 1);
  lane.returns.push_back(lane.pc);
  lane.pc = operands[0];
  return Outcome::kNext;
}

Outcome Copy(Lane& lane, const Slot* operands) {
  const Slot* const end = operands + 1 + 3 * operands[0];
  for (const Slot* o = operands + 1; o != end; o += 3) {
    std::memcpy(lane.frame + o[1], lane.frame + o[0], o[2]);
  }
  return Outcome::kNext;
}

Outcome Return(Lane& lane, const Slot*) {
  if (lane.returns.empty()) {
    return lane.copies.empty() ? Outcome::kExits
                               : lane.Fail("the end, with copies on their way");
  }
  lane.pc = lane.returns.back();
  lane.returns.pop_back();
  return Outcome::kNext;
}

Outcome FallOff(Lane& lane, const Slot*) {
  return lane.Fail("beyond the end of the function");
}

}  // namespace graft::ptx
