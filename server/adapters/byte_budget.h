#ifndef GRAFT_SERVER_ADAPTERS_BYTE_BUDGET_H_
#define GRAFT_SERVER_ADAPTERS_BYTE_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <memory>

namespace graft {

// Counts bytes against a limit. Held by whoever has some of them. Thread-safe.
class ByteBudget : public std::enable_shared_from_this<ByteBudget> {
 public:
  // `limit` 0: none.
  explicit ByteBudget(int64_t limit) : limit_(limit) {}

  // Counts `bytes` until the last copy of the result is gone. Null if they do
  // not fit, and then nothing has changed.
  std::shared_ptr<const void> TryReserve(int64_t bytes);

  // True if `bytes` fit when nothing else is there.
  bool CanHold(int64_t bytes) const { return limit_ == 0 || bytes <= limit_; }

  int64_t limit() const { return limit_; }
  int64_t used() const { return used_; }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_BYTE_BUDGET_H_
