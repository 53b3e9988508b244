#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "server/adapters/adapter_cache.h"
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
  explicit operator bool() const { return content_ != nullptr; }

  // REQUIRES for all that follow: the handle is not empty.
  const std::string& name() const { return name_; }
  const std::string& sha256() const { return content_->weights.sha256; }

  // True if the adapter is prepared on the device, where it then stays as long
  // as the handle.
  bool resident() const { return prepared_ != nullptr; }

  // Prepares it if need be. Blocks: call it on an executor. While another
  // thread prepares it, waits, or, with `again`, returns nullopt, and `again`
  // is called afterwards. Errors as AdapterCache::MakeResident.
  std::optional<absl::Status> MakeResident(
      const AdapterCache::Continuation& again = nullptr);

  // REQUIRES: resident().
  const PreparedAdapterPtr& prepared() const { return prepared_; }

  // Counts a request that uses the adapter: AdapterInfo::use_count.
  void CountUse();

  // Calls `cancel` once if somebody unloads the adapter by force, or has done
  // so already: the user should drop the handle soon. On any thread, without a
  // lock, perhaps while the handle is being dropped.
  void OnForcedUnload(std::function<void()> cancel);

 private:
  friend class AdapterRegistry;
  AdapterHandle(std::shared_ptr<AdapterRegistry> registry, int64_t id,
                int64_t use, std::string name, AdapterContentPtr content,
                PreparedAdapterPtr prepared);

  // Unpins; the handle is empty afterwards.
  void Release();

  std::shared_ptr<AdapterRegistry> registry_;
  int64_t id_ = 0;   // of the adapter in the registry
  int64_t use_ = 0;  // of this handle there
  std::string name_;
  AdapterContentPtr content_;
  PreparedAdapterPtr prepared_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_
