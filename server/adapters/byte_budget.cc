#include "server/adapters/byte_budget.h"

#include <utility>

namespace graft {
namespace {

// Calls `give_back` at its end.
template <typename F>
class AtEnd {
 public:
  explicit AtEnd(F give_back) : give_back_(std::move(give_back)) {}
  ~AtEnd() { give_back_(); }
  AtEnd(const AtEnd&) = delete;
  AtEnd& operator=(const AtEnd&) = delete;

 private:
  F give_back_;
};

}  // namespace

std::shared_ptr<const void> ByteBudget::TryReserve(int64_t bytes) {
  int64_t used = used_;
  do {
    if (!CanHold(used + bytes)) return nullptr;
  } while (!used_.compare_exchange_weak(used, used + bytes));
  auto give_back = [budget = shared_from_this(), bytes] {
    budget->used_ -= bytes;
  };
  return std::make_shared<AtEnd<decltype(give_back)>>(std::move(give_back));
}

}  // namespace graft
