#include "server/engine/weights/undo_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {

UndoArena::~UndoArena() {
  if (memory_ != nullptr) munmap(memory_, capacity_);
}

absl::Status UndoArena::Reset(size_t bytes) {
  high_water_ = high_water();
  used_ = 0;
  if (bytes <= capacity_) return absl::OkStatus();
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return Error(ErrorReason::kGpuOutOfMemory,
                 absl::StrCat("no address space for an undo log of up to ",
                              bytes, " bytes: ", std::strerror(errno)));
  }
  if (memory_ != nullptr) munmap(memory_, capacity_);
  memory_ = static_cast<uint8_t*>(memory);
  capacity_ = bytes;
  high_water_ = 0;
  return absl::OkStatus();
}

size_t UndoArena::Allocate(size_t size) {
  return used_.fetch_add(size, std::memory_order_relaxed);
}

size_t UndoArena::high_water() const {
  return std::max(used(), high_water_.load(std::memory_order_relaxed));
}

}  // namespace graft
