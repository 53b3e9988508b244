#ifndef GRAFT_SERVER_SCHEDULING_TENANT_LINE_H_
#define GRAFT_SERVER_SCHEDULING_TENANT_LINE_H_

#include <deque>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace graft {

// A line in which each tenant has a place of its own: tenants take turns, and
// those of one tenant come in the order of their arrival. So however many one
// sends, the first of another waits for one of each. A value type;
// thread-compatible.
template <class T>
class TenantLine {
 public:
  bool empty() const { return waiting_.empty(); }

  void Push(const std::string& tenant, T item) {
    waiting_[tenant].push_back(std::move(item));
  }

  // Takes the one whose turn it is. REQUIRES: not empty.
  T Pop() {
    auto next = waiting_.upper_bound(last_tenant_);
    if (next == waiting_.end()) next = waiting_.begin();
    last_tenant_ = next->first;
    T item = std::move(next->second.front());
    next->second.pop_front();
    if (next->second.empty()) waiting_.erase(next);
    return item;
  }

  // Takes all of which `wanted(item)` is true, a tenant's in their order.
  template <class Predicate>
  std::vector<T> TakeIf(Predicate wanted) {
    std::vector<T> taken;
    for (auto line = waiting_.begin(); line != waiting_.end();) {
      std::deque<T> left;
      for (T& item : line->second) {
        if (wanted(item)) {
          taken.push_back(std::move(item));
        } else {
          left.push_back(std::move(item));
        }
      }
      line->second = std::move(left);
      line = line->second.empty() ? waiting_.erase(line) : std::next(line);
    }
    return taken;
  }

 private:
  std::map<std::string, std::deque<T>> waiting_;  // none of them empty
  std::string last_tenant_;                       // whose turn it was
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_TENANT_LINE_H_
