#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_UNDO_ARENA_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_UNDO_ARENA_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace graft {

// The memory that one set's undo log lies in. Address space for the worst case
// is reserved before a switch writes its first weight; the memory behind it
// comes page by page as the log grows, and stays for the next log. So a switch
// cannot run out of room half-way.
class UndoArena {
 public:
  UndoArena() = default;
  ~UndoArena();
  UndoArena(const UndoArena&) = delete;
  UndoArena& operator=(const UndoArena&) = delete;

  // Empties the arena and sees to it that `bytes` can be allocated.
  // GPU_OUT_OF_MEMORY, and then it is empty and as large as before.
  absl::Status Reset(size_t bytes);

  // The offset of `size` new bytes. REQUIRES: Reset() was asked for enough.
  // Thread-safe.
  size_t Allocate(size_t size);

  uint8_t* memory() const { return memory_; }
  // Allocated since Reset.
  size_t used() const { return used_.load(std::memory_order_relaxed); }
  // The most that was ever allocated: memory that stays.
  size_t high_water() const;

 private:
  uint8_t* memory_ = nullptr;
  size_t capacity_ = 0;
  std::atomic<size_t> used_{0};
  std::atomic<size_t> high_water_{0};
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_UNDO_ARENA_H_
