#include "tests/engine/ptx/machine.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::ptx {
namespace {

// Of a lane; far beyond what a tile takes.
constexpr uint64_t kMostBranches = 10'000'000;

}  // namespace

Machine::Machine(Module module, uint32_t seed)
    : module_(std::move(module)),
      random_(seed),
      frames_(kWarpLanes * size_t{module_.frame_bytes}),
      lanes_(kWarpLanes) {
  std::iota(order_, order_ + kWarpLanes, 0);
  for (uint32_t i = 0; i < kWarpLanes; ++i) {
    lanes_[i].frame = frames_.data() + i * size_t{module_.frame_bytes};
    for (const Constant& constant : module_.constants) {
      lanes_[i].Set(constant.slot, constant.value);
    }
  }
}

absl::Status Machine::Run(const Function& kernel, const LaunchSize& size,
                          const void* const* arguments, GlobalMemory& memory) {
  if (size.threads % kWarpLanes != 0 ||
      (kernel.max_threads != 0 && size.threads > kernel.max_threads)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "blocks of ", size.threads, " threads, at most ", kernel.max_threads));
  }
  for (Lane& lane : lanes_) {
    lane.global = &memory;
    lane.Set(module_.special.nctaid, size.blocks);
  }
  for (uint32_t block = 0; block < size.blocks; ++block) {
    SharedMemory shared(size.shared_bytes, random_());
    for (Lane& lane : lanes_) {
      lane.shared = &shared;
      lane.Set(module_.special.ctaid, block);
    }
    for (uint32_t warp = 0; warp < size.threads / kWarpLanes; ++warp) {
      StartWarp(kernel, warp, arguments);
      const std::string problem = RunWarp();
      if (!problem.empty()) {
        return absl::InternalError(
            absl::StrCat(problem, ", block ", block, ", warp ", warp));
      }
    }
  }
  return absl::OkStatus();
}

void Machine::StartWarp(const Function& kernel, uint32_t warp,
                        const void* const* arguments) {
  for (uint32_t i = 0; i < kWarpLanes; ++i) {
    Lane& lane = lanes_[i];
    lane.who = {static_cast<uint16_t>(warp), static_cast<uint8_t>(i)};
    lane.pc = kernel.entry;
    lane.branches_left = kMostBranches;
    lane.returns.clear();
    lane.copies.clear();
    lane.Set(module_.special.tid, warp * kWarpLanes + i);
    for (size_t p = 0; p < kernel.parameters.size(); ++p) {
      std::memcpy(lane.frame + kernel.parameters[p].slot, arguments[p],
                  kernel.parameters[p].bytes);
    }
  }
}

// Empty, or what went wrong.
std::string Machine::RunWarp() {
  while (true) {
    ChangeOrder();
    const Lane* exits = nullptr;
    const Lane* waits = nullptr;
    for (const uint32_t i : order_) {
      Lane& lane = lanes_[i];
      const Outcome outcome = RunUntilStop(lane);
      if (outcome == Outcome::kFails) {
        return absl::StrCat(lane.problem, ": address 0x",
                            absl::Hex(lane.address), ", ", Where(lane));
      }
      const bool meets = outcome == Outcome::kMeets;
      if (meets && waits != nullptr && waits->pc != lane.pc) {
        return absl::StrCat("lanes wait for each other in different places: ",
                            Where(*waits), "; ", Where(lane));
      }
      (meets ? waits : exits) = &lane;
    }
    if (waits == nullptr) return "";
    if (exits != nullptr) {
      return absl::StrCat("waits for a lane that has exited: ", Where(*waits),
                          "; ", Where(*exits));
    }
    const std::string problem = Meet();
    if (!problem.empty()) return problem;
  }
}

Outcome Machine::RunUntilStop(Lane& lane) const {
  const Instruction* const code = module_.code.data();
  const Slot* const operands = module_.operands.data();
  while (true) {
    const Instruction& instruction = code[lane.pc++];
    const bool negated = (instruction.guard & 1) != 0;
    if (lane.Get<bool>(instruction.guard & ~1u) == negated) continue;
    const Outcome outcome =
        instruction.run(lane, operands + instruction.operands);
    if (outcome != Outcome::kNext) return outcome;
  }
}

// Makes the instruction that all lanes stand at.
std::string Machine::Meet() {
  const uint32_t at = lanes_[0].pc - 1;
  const Opcode& opcode = *module_.origins[at].opcode;
  if (const char* const problem =
          opcode.meet(absl::MakeSpan(lanes_),
                      module_.operands.data() + module_.code[at].operands)) {
    return absl::StrCat(problem, ": ", Where(lanes_[0]));
  }
  if (opcode.orders_memory) {
    for (Lane& lane : lanes_) ++lane.who.epoch;
  }
  return "";
}

// Upwards, downwards, and at random.
void Machine::ChangeOrder() {
  turn_ = (turn_ + 1) % 3;
  if (turn_ == 2) {
    std::shuffle(order_, order_ + kWarpLanes, random_);
  } else {
    std::sort(order_, order_ + kWarpLanes);
    if (turn_ == 1) std::reverse(order_, order_ + kWarpLanes);
  }
}

// The instruction that a lane has stopped at.
std::string Machine::Where(const Lane& lane) const {
  const InstructionOrigin& origin = module_.origins[lane.pc - 1];
  std::string where = absl::StrCat("line ", origin.line);
  if (origin.opcode != nullptr) {
    absl::StrAppend(&where, " (", origin.opcode->name, ")");
  }
  absl::StrAppend(&where, ", lane ", lane.who.lane);
  return where;
}

}  // namespace graft::ptx
