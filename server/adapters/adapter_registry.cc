#include "server/adapters/adapter_registry.h"

#include <cassert>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/common/error.h"

namespace graft {
namespace {

ErrorMetadata Resource(absl::string_view name) {
  return {{"resource_type", "Adapter"}, {"resource_name", std::string(name)}};
}

std::string Quoted(absl::string_view name) {
  return absl::StrCat("adapter \"", EscapeUntrusted(name), "\"");
}

absl::Status NotFound(absl::string_view name) {
  return Error(ErrorReason::kAdapterNotFound,
               absl::StrCat(Quoted(name),
                            " is not loaded; load its file first, or list the "
                            "adapters that are"),
               Resource(name));
}

absl::Status InUse(const AdapterInfo& info) {
  ErrorMetadata metadata = Resource(info.name);
  metadata.emplace_back("in_flight", absl::StrCat(info.in_flight));
  return Error(
      ErrorReason::kAdapterInUse,
      absl::StrCat(Quoted(info.name), " is in use by ", info.in_flight,
                   " request(s); let the unload wait, or try again later"),
      metadata);
}

absl::Status OtherVersion(const AdapterInfo& info, absl::string_view sha256) {
  ErrorMetadata metadata = Resource(info.name);
  metadata.emplace_back("sha256", info.sha256);
  return Error(
      ErrorReason::kAdapterVersionMismatch,
      absl::StrCat(Quoted(info.name), " is loaded with the SHA-256 ",
                   info.sha256, ", not ", EscapeUntrusted(sha256),
                   "; load that content, or ask for the one that is there"),
      metadata);
}

// The record of this name in `state`, or the end. `Records` may be const.
template <typename Records>
auto FindIn(Records& records, absl::string_view name, AdapterState state) {
  auto record = records.lower_bound(std::pair(std::string(name), 0));
  while (record != records.end() && record->first.first == name) {
    if (record->second.info.state == state) return record;
    ++record;
  }
  return records.end();
}

// Which of several adapters of one name stands for it: the active one, else the
// one to come, else the one that goes.
int Precedence(AdapterState state) {
  switch (state) {
    case AdapterState::kActive:
      return 3;
    case AdapterState::kLoading:
      return 2;
    case AdapterState::kUnloading:
      return 1;
    case AdapterState::kGone:
      return 0;
  }
  return 0;
}

}  // namespace

int64_t AdapterRegistry::BeginLoad(const std::string& name,
                                   const std::string& path) {
  absl::MutexLock lock(&mu_);
  const auto is_free = [this, &name]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return Find(name, AdapterState::kLoading) == records_.end();
  };
  mu_.Await(absl::Condition(&is_free));
  const int64_t id = next_id_++;
  Record record;
  record.info.name = name;
  record.info.path = path;
  records_.emplace(std::pair(name, id), std::move(record));
  return id;
}

void AdapterRegistry::AbandonLoad(const std::string& name, int64_t id) {
  absl::MutexLock lock(&mu_);
  // A load has neither memory nor a waiter: nothing remains.
  Apply(records_.find(std::pair(name, id)), AdapterEvent::kLoadFailed);
}

AdapterInfo AdapterRegistry::Activate(int64_t id, AdapterInfo info,
                                      PreparedAdapterPtr prepared) {
  Remains former;
  {
    absl::MutexLock lock(&mu_);
    const auto active = Find(info.name, AdapterState::kActive);
    if (active != records_.end()) former = StartUnload(active, nullptr);
    const auto loaded = records_.find(std::pair(info.name, id));
    Record& record = loaded->second;
    info.state = record.info.state;
    record.info = std::move(info);
    record.info.load_time = absl::Now();
    record.prepared = std::move(prepared);
    Apply(loaded, AdapterEvent::kLoaded);
    info = record.info;
  }
  Settle(std::move(former));
  return info;
}

std::optional<AdapterInfo> AdapterRegistry::FindActive(
    absl::string_view name) const {
  absl::ReaderMutexLock lock(&mu_);
  const auto record = Find(name, AdapterState::kActive);
  if (record == records_.end()) return std::nullopt;
  return record->second.info;
}

absl::StatusOr<AdapterInfo> AdapterRegistry::Get(absl::string_view name) const {
  absl::ReaderMutexLock lock(&mu_);
  const AdapterInfo* best = nullptr;
  for (auto record = records_.lower_bound(std::pair(std::string(name), 0));
       record != records_.end() && record->first.first == name; ++record) {
    const AdapterInfo& info = record->second.info;
    if (best == nullptr || Precedence(info.state) >= Precedence(best->state)) {
      best = &info;
    }
  }
  if (best == nullptr) return NotFound(name);
  return *best;
}

std::vector<AdapterInfo> AdapterRegistry::List() const {
  absl::ReaderMutexLock lock(&mu_);
  std::vector<AdapterInfo> list;
  for (const auto& [key, record] : records_) {
    const AdapterInfo& info = record.info;
    if (list.empty() || list.back().name != info.name) {
      list.push_back(info);
    } else if (Precedence(info.state) >= Precedence(list.back().state)) {
      list.back() = info;
    }
  }
  return list;
}

absl::StatusOr<AdapterHandle> AdapterRegistry::Acquire(
    absl::string_view name, absl::string_view sha256) {
  absl::MutexLock lock(&mu_);
  const auto found = Find(name, AdapterState::kActive);
  if (found == records_.end()) return NotFound(name);
  Record& record = found->second;
  if (!sha256.empty() && sha256 != record.info.sha256) {
    return OtherVersion(record.info, sha256);
  }
  ++record.info.in_flight;
  ++record.info.use_count;
  record.info.last_use_time = absl::Now();
  return AdapterHandle(shared_from_this(), found->first.second,
                       record.info.name, record.prepared);
}

void AdapterRegistry::Unload(absl::string_view name, bool wait,
                             UnloadDone done) {
  absl::Status refusal;
  Remains remains;
  {
    absl::MutexLock lock(&mu_);
    const auto active = Find(name, AdapterState::kActive);
    if (active == records_.end()) {
      refusal = NotFound(name);
    } else if (active->second.info.in_flight > 0 && !wait) {
      refusal = InUse(active->second.info);
    } else {
      remains = StartUnload(active, std::exchange(done, nullptr));
    }
  }
  if (refusal.ok()) {
    Settle(std::move(remains));
  } else {
    done(refusal);
  }
}

void AdapterRegistry::Release(const std::string& name, int64_t id) {
  Remains remains;
  {
    absl::MutexLock lock(&mu_);
    const auto found = records_.find(std::pair(name, id));
    AdapterInfo& info = found->second.info;
    --info.in_flight;
    if (info.in_flight == 0 && info.state == AdapterState::kUnloading) {
      remains = Apply(found, AdapterEvent::kLastUseOver);
    }
  }
  Settle(std::move(remains));
}

AdapterRegistry::Records::iterator AdapterRegistry::Find(absl::string_view name,
                                                         AdapterState state) {
  return FindIn(records_, name, state);
}

AdapterRegistry::Records::const_iterator AdapterRegistry::Find(
    absl::string_view name, AdapterState state) const {
  return FindIn(records_, name, state);
}

AdapterRegistry::Remains AdapterRegistry::Apply(Records::iterator record,
                                                AdapterEvent event) {
  AdapterInfo& info = record->second.info;
  const std::optional<AdapterState> next = NextAdapterState(info.state, event);
  assert(next.has_value());
  info.state = *next;
  if (info.state != AdapterState::kGone) return {};
  Remains remains{std::move(record->second.prepared),
                  std::move(record->second.unload_done)};
  records_.erase(record);
  return remains;
}

AdapterRegistry::Remains AdapterRegistry::StartUnload(Records::iterator record,
                                                      UnloadDone done) {
  record->second.unload_done = std::move(done);
  Apply(record, AdapterEvent::kUnloadAsked);
  if (record->second.info.in_flight > 0) return {};
  return Apply(record, AdapterEvent::kLastUseOver);
}

void AdapterRegistry::Settle(Remains remains) {
  if (remains.unload_done == nullptr) return;  // the memory goes here
  remains.unload_done(std::move(remains.prepared));
}

}  // namespace graft
