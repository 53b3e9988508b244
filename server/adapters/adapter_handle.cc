#include "server/adapters/adapter_handle.h"

#include <utility>

#include "absl/status/statusor.h"
#include "server/adapters/adapter_registry.h"
#include "server/common/status_macros.h"

namespace graft {

AdapterHandle::AdapterHandle(std::shared_ptr<AdapterRegistry> registry,
                             int64_t id, int64_t use, std::string name,
                             AdapterContentPtr content,
                             PreparedAdapterPtr prepared)
    : registry_(std::move(registry)),
      id_(id),
      use_(use),
      name_(std::move(name)),
      content_(std::move(content)),
      prepared_(std::move(prepared)) {}

AdapterHandle::~AdapterHandle() { Release(); }

AdapterHandle& AdapterHandle::operator=(AdapterHandle&& other) noexcept {
  if (this != &other) {
    Release();
    registry_ = std::move(other.registry_);
    id_ = other.id_;
    use_ = other.use_;
    name_ = std::move(other.name_);
    content_ = std::move(other.content_);
    prepared_ = std::move(other.prepared_);
  }
  return *this;
}

std::optional<absl::Status> AdapterHandle::MakeResident(
    const AdapterCache::Continuation& again) {
  if (resident()) return absl::OkStatus();
  AdapterCache& cache = registry_->cache();
  std::optional<absl::StatusOr<PreparedAdapterPtr>> prepared =
      again == nullptr ? cache.MakeResident(content_)
                       : cache.TryMakeResident(content_, again);
  if (!prepared.has_value()) return std::nullopt;
  GRAFT_ASSIGN_OR_RETURN(prepared_, *std::move(prepared));
  return absl::OkStatus();
}

void AdapterHandle::CountUse() { registry_->CountUse(name_, id_); }

void AdapterHandle::OnForcedUnload(std::function<void()> cancel) {
  registry_->OnForcedUnload(name_, id_, use_, std::move(cancel));
}

void AdapterHandle::Release() {
  if (content_ == nullptr) return;
  // The references first: once the registry knows, the unload goes on and tells
  // its caller that nobody here holds the memory.
  prepared_.reset();
  content_.reset();
  const std::shared_ptr<AdapterRegistry> registry = std::move(registry_);
  registry->Release(name_, id_, use_);
}

}  // namespace graft
