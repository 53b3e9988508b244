#include "server/adapters/adapter_registry.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

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

absl::Status Pinned(const AdapterInfo& info) {
  return Error(
      ErrorReason::kAdapterPinned,
      absl::StrCat(Quoted(info.name), " is pinned; unpin it before unloading"),
      Resource(info.name));
}

// What was unloaded of an adapter that had nothing on the device, or whose
// content is still loaded under another name: nothing.
class NothingPrepared : public PreparedAdapter {
 public:
  explicit NothingPrepared(std::string sha256) : sha256_(std::move(sha256)) {}
  const std::string& sha256() const override { return sha256_; }
  int64_t bytes() const override { return 0; }

 private:
  const std::string sha256_;
};

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

// Hears of each of several unloads, and tells `done` when all are over, with
// what the newest version was. Thread-safe.
class UnloadsTogether {
 public:
  UnloadsTogether(size_t count, AdapterRegistry::UnloadDone done)
      : left_(count), done_(std::move(done)) {}

  void Tell(bool newest, absl::StatusOr<PreparedAdapterPtr> unloaded) {
    if (newest) newest_ = std::move(unloaded);
    if (--left_ == 0) done_(std::move(newest_));
  }

 private:
  std::atomic<size_t> left_;
  absl::StatusOr<PreparedAdapterPtr> newest_;  // written once, before the end
  const AdapterRegistry::UnloadDone done_;
};

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
  return AddLoad(name, path);
}

std::optional<int64_t> AdapterRegistry::TryBeginLoad(
    const std::string& name, const std::string& path,
    AdapterCache::Continuation again) {
  absl::MutexLock lock(&mu_);
  const auto other = Find(name, AdapterState::kLoading);
  if (other == records_.end()) return AddLoad(name, path);
  other->second.waiting.push_back(std::move(again));
  return std::nullopt;
}

int64_t AdapterRegistry::AddLoad(const std::string& name,
                                 const std::string& path) {
  const int64_t id = next_id_++;
  Record record;
  record.info.name = name;
  record.info.path = path;
  records_.emplace(std::pair(name, id), std::move(record));
  return id;
}

void AdapterRegistry::AbandonLoad(const std::string& name, int64_t id) {
  std::vector<AdapterCache::Continuation> waiting;
  {
    absl::MutexLock lock(&mu_);
    const auto record = records_.find(std::pair(name, id));
    waiting = std::move(record->second.waiting);
    // A load has neither memory nor an unload to tell of: nothing remains.
    Apply(record, AdapterEvent::kLoadFailed);
  }
  for (const AdapterCache::Continuation& again : waiting) again();
}

AdapterInfo AdapterRegistry::Activate(int64_t id, AdapterInfo info,
                                      AdapterContentPtr content,
                                      const FileStamp& stamp,
                                      AdapterHandle* handle) {
  return *ActivateIf(/*asked_for=*/true, id, std::move(info),
                     std::move(content), stamp, handle);
}

std::optional<AdapterInfo> AdapterRegistry::ActivateChanged(
    int64_t id, AdapterInfo info, AdapterContentPtr content,
    const FileStamp& stamp) {
  return ActivateIf(/*asked_for=*/false, id, std::move(info),
                    std::move(content), stamp, /*handle=*/nullptr);
}

std::optional<AdapterInfo> AdapterRegistry::ActivateIf(
    bool asked_for, int64_t id, AdapterInfo info, AdapterContentPtr content,
    const FileStamp& stamp, AdapterHandle* handle) {
  Remains former;
  std::vector<AdapterCache::Continuation> waiting;
  {
    absl::MutexLock lock(&mu_);
    const auto loaded = records_.find(std::pair(info.name, id));
    if (!asked_for && loaded->second.unwanted) return std::nullopt;
    const auto active = Find(info.name, AdapterState::kActive);
    if (active != records_.end()) {
      if (active->second.info.pinned) {
        info.pinned = true;
        active->second.info.pinned = false;
        cache_->Unpin(*active->second.content);
      }
      former = StartUnload(active);
    }
    Record& record = loaded->second;
    info.state = record.info.state;
    record.info = std::move(info);
    record.info.load_time = absl::Now();
    record.content = std::move(content);
    record.stamp = stamp;
    record.last_use = ++uses_;
    waiting = std::exchange(record.waiting, {});
    if (record.info.pinned) cache_->Pin(*record.content);
    Apply(loaded, AdapterEvent::kLoaded);
    if (handle != nullptr) *handle = MakeHandle(loaded);
    info = Describe(record);
  }
  Settle(std::move(former));
  for (const AdapterCache::Continuation& again : waiting) again();
  return info;
}

bool AdapterRegistry::Confirm(absl::string_view name, absl::string_view sha256,
                              const FileStamp& stamp, bool asked_for) {
  absl::MutexLock lock(&mu_);
  const auto found = Find(name, AdapterState::kActive);
  if (found == records_.end() || found->second.info.sha256 != sha256) {
    return false;
  }
  found->second.stamp = stamp;
  if (asked_for) found->second.info.autoloaded = false;
  return true;
}

std::vector<AdapterRegistry::Watched> AdapterRegistry::Autoloaded() const {
  absl::ReaderMutexLock lock(&mu_);
  std::vector<Watched> watched;
  for (const auto& [key, record] : records_) {
    const AdapterInfo& info = record.info;
    if (info.state == AdapterState::kActive && info.autoloaded) {
      watched.push_back({info.name, info.path, record.stamp});
    }
  }
  return watched;
}

AdapterRegistry::Records::iterator AdapterRegistry::FindWatched(
    const Watched& watched) {
  const auto found = Find(watched.name, AdapterState::kActive);
  if (found == records_.end() || !found->second.info.autoloaded ||
      found->second.info.path != watched.path ||
      !(found->second.stamp == watched.stamp)) {
    return records_.end();
  }
  return found;
}

bool AdapterRegistry::UpdateStamp(const Watched& watched,
                                  const FileStamp& stamp) {
  absl::MutexLock lock(&mu_);
  const auto found = FindWatched(watched);
  if (found == records_.end()) return false;
  found->second.stamp = stamp;
  return true;
}

bool AdapterRegistry::UnloadWatched(const Watched& watched) {
  Remains remains;
  {
    absl::MutexLock lock(&mu_);
    const auto found = FindWatched(watched);
    if (found == records_.end() || found->second.info.pinned) return false;
    remains = StartUnload(found);
  }
  Settle(std::move(remains));
  return true;
}

std::map<const AdapterContent*, AdapterRegistry::IdleContent>
AdapterRegistry::IdleContents() const {
  std::map<const AdapterContent*, IdleContent> contents;
  for (const auto& [key, record] : records_) {
    if (!IsIdle(record) || !record.info.autoloaded) continue;
    IdleContent& content = contents[record.content.get()];
    content.records.push_back(key);
    content.last_use = std::max(content.last_use, record.last_use);
    content.bytes = record.content->size_bytes;
    content.pointers = record.content.use_count();
  }
  // Unloading one frees nothing if another name or user has it, too.
  std::erase_if(contents, [](const auto& entry) {
    const IdleContent& content = entry.second;
    return content.pointers != static_cast<int64_t>(content.records.size());
  });
  return contents;
}

int64_t AdapterRegistry::IdleBytes() const {
  absl::ReaderMutexLock lock(&mu_);
  int64_t bytes = 0;
  for (const auto& [content, idle] : IdleContents()) bytes += idle.bytes;
  return bytes;
}

bool AdapterRegistry::HasRead(absl::string_view path, int64_t bytes) const {
  absl::ReaderMutexLock lock(&mu_);
  return std::any_of(records_.begin(), records_.end(),
                     [path, bytes](const auto& entry) {
                       const AdapterInfo& info = entry.second.info;
                       return info.path == path && info.size_bytes == bytes;
                     });
}

bool AdapterRegistry::IsIdle(const Record& record) {
  return record.info.state == AdapterState::kActive && !record.info.pinned &&
         record.info.in_flight == 0;
}

int AdapterRegistry::UnloadIdle() {
  std::vector<Remains> remains;
  {
    absl::MutexLock lock(&mu_);
    const auto contents = IdleContents();
    const auto oldest = std::min_element(
        contents.begin(), contents.end(), [](const auto& a, const auto& b) {
          return a.second.last_use < b.second.last_use;
        });
    if (oldest == contents.end()) return 0;
    for (const auto& key : oldest->second.records) {
      remains.push_back(StartUnload(records_.find(key)));
    }
  }
  const int unloaded = static_cast<int>(remains.size());
  for (Remains& record : remains) Settle(std::move(record));
  return unloaded;
}

std::vector<std::string> AdapterRegistry::IdleNames() const {
  std::vector<std::pair<int64_t, std::string>> idle;
  {
    absl::ReaderMutexLock lock(&mu_);
    for (const auto& [key, record] : records_) {
      if (IsIdle(record)) idle.emplace_back(record.last_use, record.info.name);
    }
  }
  std::sort(idle.begin(), idle.end());
  std::vector<std::string> names;
  for (auto& [last_use, name] : idle) names.push_back(std::move(name));
  return names;
}

std::optional<AdapterInfo> AdapterRegistry::FindActive(
    absl::string_view name) const {
  absl::ReaderMutexLock lock(&mu_);
  const auto record = Find(name, AdapterState::kActive);
  if (record == records_.end()) return std::nullopt;
  return Describe(record->second);
}

absl::StatusOr<AdapterInfo> AdapterRegistry::Get(absl::string_view name) const {
  absl::ReaderMutexLock lock(&mu_);
  const Record* best = nullptr;
  for (auto record = records_.lower_bound(std::pair(std::string(name), 0));
       record != records_.end() && record->first.first == name; ++record) {
    const AdapterState state = record->second.info.state;
    if (best == nullptr || Precedence(state) >= Precedence(best->info.state)) {
      best = &record->second;
    }
  }
  if (best == nullptr) return NotFound(name);
  return Describe(*best);
}

std::vector<AdapterInfo> AdapterRegistry::List() const {
  absl::ReaderMutexLock lock(&mu_);
  std::vector<AdapterInfo> list;
  for (const auto& [key, record] : records_) {
    const AdapterInfo& info = record.info;
    if (list.empty() || list.back().name != info.name) {
      list.push_back(Describe(record));
    } else if (Precedence(info.state) >= Precedence(list.back().state)) {
      list.back() = Describe(record);
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
  return MakeHandle(found);
}

AdapterHandle AdapterRegistry::MakeHandle(Records::iterator record) {
  Record& used = record->second;
  ++used.info.in_flight;
  used.info.last_use_time = absl::Now();
  used.last_use = ++uses_;
  return AdapterHandle(shared_from_this(), record->first.second, used.last_use,
                       used.info.name, used.content,
                       cache_->Use(*used.content));
}

absl::Status AdapterRegistry::CheckUnload(Records::const_iterator active,
                                          absl::string_view name,
                                          UnloadMode mode) const {
  if (active == records_.end()) return NotFound(name);
  const AdapterInfo& info = active->second.info;
  if (info.pinned) return Pinned(info);
  if (info.in_flight > 0 && mode == UnloadMode::kOnlyIfUnused) {
    return InUse(info);
  }
  return absl::OkStatus();
}

void AdapterRegistry::Force(Record& record,
                            std::vector<std::function<void()>>& cancels) {
  record.forced = true;
  for (auto& [use, cancel] : std::exchange(record.cancels, {})) {
    cancels.push_back(std::move(cancel));
  }
}

std::vector<AdapterRegistry::Records::iterator> AdapterRegistry::FindLeaving(
    absl::string_view name) {
  std::vector<Records::iterator> leaving;
  for (auto record = records_.lower_bound(std::pair(std::string(name), 0));
       record != records_.end() && record->first.first == name; ++record) {
    if (record->second.info.state == AdapterState::kUnloading) {
      leaving.push_back(record);
    }
  }
  return leaving;
}

absl::Status AdapterRegistry::Unload(absl::string_view name, UnloadMode mode,
                                     UnloadDone done) {
  const bool force = mode == UnloadMode::kForce;
  Remains remains;
  std::vector<std::function<void()>> cancels;
  {
    absl::MutexLock lock(&mu_);
    const auto active = Find(name, AdapterState::kActive);
    // What `done` waits for: by force also versions that are on their way out
    // already, even if there is no other.
    std::vector<Records::iterator> versions;
    if (force) versions = FindLeaving(name);
    if (active != records_.end() || versions.empty()) {
      GRAFT_RETURN_IF_ERROR(CheckUnload(active, name, mode));
      versions.push_back(active);
    }
    std::shared_ptr<UnloadsTogether> together;
    if (done != nullptr) {
      together =
          std::make_shared<UnloadsTogether>(versions.size(), std::move(done));
    }
    for (const auto& version : versions) {
      Record& record = version->second;
      if (force) Force(record, cancels);
      if (together == nullptr) continue;
      record.unload_done.push_back(
          [together, newest = version == versions.back()](auto unloaded) {
            together->Tell(newest, std::move(unloaded));
          });
    }
    if (active != records_.end()) remains = StartUnload(active);
    const auto loading = Find(name, AdapterState::kLoading);
    if (loading != records_.end()) loading->second.unwanted = true;
  }
  for (const auto& cancel : cancels) cancel();
  Settle(std::move(remains));
  return absl::OkStatus();
}

absl::StatusOr<AdapterInfo> AdapterRegistry::SetPinned(absl::string_view name,
                                                       bool pinned) {
  absl::MutexLock lock(&mu_);
  const auto found = Find(name, AdapterState::kActive);
  if (found == records_.end()) return NotFound(name);
  Record& record = found->second;
  if (pinned && !record.info.pinned) cache_->Pin(*record.content);
  if (!pinned && record.info.pinned) cache_->Unpin(*record.content);
  record.info.pinned = pinned;
  return Describe(record);
}

void AdapterRegistry::OnForcedUnload(const std::string& name, int64_t id,
                                     int64_t use,
                                     std::function<void()> cancel) {
  {
    absl::MutexLock lock(&mu_);
    Record& record = records_.at(std::pair(name, id));
    if (!record.forced) {
      record.cancels[use] = std::exchange(cancel, nullptr);
    }
  }
  if (cancel != nullptr) cancel();
}

void AdapterRegistry::CountUse(const std::string& name, int64_t id) {
  absl::MutexLock lock(&mu_);
  ++records_.at(std::pair(name, id)).info.use_count;
}

void AdapterRegistry::Release(const std::string& name, int64_t id,
                              int64_t use) {
  Remains remains;
  std::function<void()> cancel;  // its captures are destroyed without the lock
  {
    absl::MutexLock lock(&mu_);
    const auto found = records_.find(std::pair(name, id));
    AdapterInfo& info = found->second.info;
    auto& cancels = found->second.cancels;
    const auto registered = cancels.find(use);
    if (registered != cancels.end()) {
      cancel = std::move(registered->second);
      cancels.erase(registered);
    }
    --info.in_flight;
    if (info.in_flight == 0 && info.state == AdapterState::kUnloading) {
      remains = Apply(found, AdapterEvent::kLastUseOver);
    }
  }
  Settle(std::move(remains));
}

AdapterInfo AdapterRegistry::Describe(const Record& record) const {
  AdapterInfo info = record.info;
  if (record.content == nullptr) return info;
  const AdapterCache::Place place = cache_->Locate(*record.content);
  info.residency = place.residency;
  info.device_bytes = place.device_bytes;
  info.host_bytes = record.content->size_bytes;
  return info;
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
  if (info.pinned) cache_->Unpin(*record->second.content);
  Remains remains{std::move(record->second.content),
                  std::move(record->second.unload_done)};
  records_.erase(record);
  return remains;
}

AdapterRegistry::Remains AdapterRegistry::StartUnload(
    Records::iterator record) {
  Apply(record, AdapterEvent::kUnloadAsked);
  if (record->second.info.in_flight > 0) return {};
  return Apply(record, AdapterEvent::kLastUseOver);
}

void AdapterRegistry::Settle(Remains remains) const {
  if (remains.unload_done.empty()) return;  // the memory goes here
  const std::string sha256 = remains.content->weights.sha256;
  PreparedAdapterPtr prepared = cache_->TakeUnshared(remains.content);
  remains.content.reset();
  for (const UnloadDone& done : remains.unload_done) {
    if (prepared == nullptr) {
      prepared = std::make_shared<NothingPrepared>(sha256);
    }
    done(std::exchange(prepared, nullptr));
  }
}

}  // namespace graft
