#ifndef GRAFT_TESTS_ENGINE_PTX_LANE_H_
#define GRAFT_TESTS_ENGINE_PTX_LANE_H_

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "tests/engine/ptx/memory.h"

namespace graft::ptx {

inline constexpr uint32_t kWarpLanes = 32;

// A place in a lane's frame, in bytes. Registers, parameters and constants have
// one each: operands are nothing else.
using Slot = uint32_t;

// What a lane does after an instruction.
enum class Outcome : uint8_t {
  kNext,   // the one that its pc says
  kMeets,  // nothing, until the others of its warp are there too
  kExits,
  kFails,  // `problem` says why
};

// A copy that the lane has started and not waited for.
struct AsyncCopy {
  uint64_t from;
  uint32_t to;
};

// A thread of a warp.
struct Lane {
  Accessor who;
  uint32_t pc = 0;
  uint8_t* frame = nullptr;
  uint64_t branches_left = 0;
  std::vector<uint32_t> returns;  // where the functions that it is in return to
  std::vector<AsyncCopy> copies;
  GlobalMemory* global = nullptr;
  SharedMemory* shared = nullptr;
  const char* problem = nullptr;
  uint64_t address = 0;  // that the problem is with, if any

  // A predicate is the lowest bit of its slot.
  template <class T>
  T Get(Slot slot) const {
    if constexpr (std::is_same_v<T, bool>) {
      return (frame[slot] & 1) != 0;
    } else {
      T value;
      std::memcpy(&value, frame + slot, sizeof(value));
      return value;
    }
  }
  template <class T>
  void Set(Slot slot, T value) {
    std::memcpy(frame + slot, &value, sizeof(value));
  }

  Outcome Fail(const char* why, uint64_t at = 0) {
    problem = why;
    address = at;
    return Outcome::kFails;
  }
};

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_LANE_H_
