#include "server/adapters/adapter_handle.h"

#include <utility>

#include "server/adapters/adapter_registry.h"

namespace graft {

AdapterHandle::AdapterHandle(std::shared_ptr<AdapterRegistry> registry,
                             int64_t id, std::string name,
                             PreparedAdapterPtr prepared)
    : registry_(std::move(registry)),
      id_(id),
      name_(std::move(name)),
      prepared_(std::move(prepared)) {}

AdapterHandle::~AdapterHandle() { Release(); }

AdapterHandle& AdapterHandle::operator=(AdapterHandle&& other) noexcept {
  if (this != &other) {
    Release();
    registry_ = std::move(other.registry_);
    id_ = other.id_;
    name_ = std::move(other.name_);
    prepared_ = std::move(other.prepared_);
  }
  return *this;
}

void AdapterHandle::Release() {
  if (prepared_ == nullptr) return;
  // The reference first: once the registry knows, the unload goes on and tells
  // its caller that nobody here holds the memory.
  prepared_.reset();
  const std::shared_ptr<AdapterRegistry> registry = std::move(registry_);
  registry->Release(name_, id_);
}

}  // namespace graft
