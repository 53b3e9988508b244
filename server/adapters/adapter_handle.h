#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "server/engine/engine.h"

namespace graft {

class AdapterRegistry;

// Pins one loaded adapter: while a handle lives, exactly this content stays in
// memory, whatever happens to its name. The last handle of an adapter that is
// being unloaded lets the unload go on, on the thread that drops it.
//
// Move-only; an empty or moved-from handle pins nothing. Thread-compatible.
// Drop it with no lock held that the unload's callback takes. May outlive the
// store.
class AdapterHandle {
 public:
  AdapterHandle() = default;
  ~AdapterHandle();
  AdapterHandle(AdapterHandle&& other) noexcept = default;
  AdapterHandle& operator=(AdapterHandle&& other) noexcept;

  // False for a handle that pins nothing.
  explicit operator bool() const { return prepared_ != nullptr; }

  // REQUIRES for all three: the handle is not empty.
  const std::string& name() const { return name_; }
  const std::string& sha256() const { return prepared_->sha256(); }
  const PreparedAdapterPtr& prepared() const { return prepared_; }

 private:
  friend class AdapterRegistry;
  AdapterHandle(std::shared_ptr<AdapterRegistry> registry, int64_t id,
                std::string name, PreparedAdapterPtr prepared);

  // Unpins; the handle is empty afterwards.
  void Release();

  std::shared_ptr<AdapterRegistry> registry_;
  int64_t id_ = 0;  // the registry's
  std::string name_;
  PreparedAdapterPtr prepared_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_
