#include "server/adapters/adapter_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// What the engine has prepared, and its bytes in the budget.
struct CountedAdapter {
  PreparedAdapterPtr adapter;
  std::shared_ptr<const void> bytes;
};

absl::Status DeviceFull(const ByteBudget& budget, int64_t bytes) {
  const ErrorMetadata metadata = {
      {"wanted_bytes", absl::StrCat(bytes)},
      {"limit_bytes", absl::StrCat(budget.limit())}};
  if (!budget.CanHold(bytes)) {
    return Error(ErrorReason::kAdapterCacheFull,
                 absl::StrCat("the adapter takes ", bytes,
                              " bytes on the device, and this server keeps ",
                              budget.limit(),
                              " for adapters; raise "
                              "--max_adapter_device_bytes"),
                 metadata);
  }
  return WithRetryDelay(
      Error(ErrorReason::kAdapterCacheFull,
            absl::StrCat("no room on the device for an adapter of ", bytes,
                         " bytes: ", budget.used(), " of ", budget.limit(),
                         " are pinned or in use by requests; try again later, "
                         "or unpin an adapter"),
            metadata),
      absl::Seconds(1));
}

}  // namespace

bool IsDeviceFullForNow(const absl::Status& status) {
  return GetErrorReason(status) == ErrorReason::kAdapterCacheFull &&
         GetRetryDelay(status).has_value();
}

AdapterCache::AdapterCache(const Engine* engine, const Options& options)
    : engine_(engine),
      host_(std::make_shared<ByteBudget>(options.max_host_bytes)),
      device_(std::make_shared<ByteBudget>(options.max_device_bytes)) {}

AdapterContentPtr AdapterCache::FindLocked(absl::string_view sha256) const {
  for (const auto& [content, entry] : entries_) {
    if (content->weights.sha256 != sha256) continue;
    // Null while its last pointer goes.
    AdapterContentPtr found = entry.content.lock();
    if (found != nullptr) return found;
  }
  return nullptr;
}

AdapterContentPtr AdapterCache::Find(absl::string_view sha256) const {
  absl::ReaderMutexLock lock(&mu_);
  return FindLocked(sha256);
}

AdapterContentPtr AdapterCache::Insert(AdapterContent& content) {
  absl::MutexLock lock(&mu_);
  AdapterContentPtr found = FindLocked(content.weights.sha256);
  if (found != nullptr) return found;
  content.host_bytes = host_->TryReserve(content.size_bytes);
  if (content.host_bytes == nullptr) return nullptr;
  const AdapterContentPtr added(
      new AdapterContent(std::move(content)),
      [cache = shared_from_this()](const AdapterContent* gone) {
        cache->Forget(gone);
        delete gone;
      });
  entries_[added.get()].content = added;
  return added;
}

PreparedAdapterPtr AdapterCache::Use(const AdapterContent& content) {
  absl::MutexLock lock(&mu_);
  Entry& entry = entries_.at(&content);
  entry.last_use = ++uses_;
  return entry.prepared;
}

absl::StatusOr<PreparedAdapterPtr> AdapterCache::MakeResident(
    const AdapterContentPtr& content) {
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = entries_.at(content.get());
    const auto is_free = [&entry] { return !entry.preparing; };
    mu_.Await(absl::Condition(&is_free));
    if (PreparedAdapterPtr prepared = UseOrBegin(entry)) return prepared;
  }
  return FinishPreparing(*content);
}

std::optional<absl::StatusOr<PreparedAdapterPtr>> AdapterCache::TryMakeResident(
    const AdapterContentPtr& content, Continuation again) {
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = entries_.at(content.get());
    if (entry.preparing) {
      entry.waiting.push_back(std::move(again));
      return std::nullopt;
    }
    if (PreparedAdapterPtr prepared = UseOrBegin(entry)) return prepared;
  }
  return FinishPreparing(*content);
}

PreparedAdapterPtr AdapterCache::UseOrBegin(Entry& entry) {
  entry.last_use = ++uses_;
  entry.preparing = entry.prepared == nullptr;
  return entry.prepared;
}

absl::StatusOr<PreparedAdapterPtr> AdapterCache::FinishPreparing(
    const AdapterContent& content) {
  const absl::StatusOr<PreparedAdapterPtr> prepared = Prepare(content);
  std::vector<Continuation> waiting;
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = entries_.at(&content);
    entry.preparing = false;
    waiting = std::exchange(entry.waiting, {});
    if (prepared.ok()) entry.prepared = *prepared;
  }
  for (const Continuation& again : waiting) again();
  return prepared;
}

absl::StatusOr<PreparedAdapterPtr> AdapterCache::Prepare(
    const AdapterContent& content) {
  // What is known to find no room is not prepared in vain: others that wait for
  // it try again and again.
  if (const int64_t bytes = KnownBytes(content);
      bytes > 0 && !MayGetRoom(bytes)) {
    return DeviceFull(*device_, bytes);
  }
  absl::StatusOr<PreparedAdapterPtr> prepared =
      engine_->Prepare(content.weights);
  while (GetErrorReason(prepared.status()) == ErrorReason::kGpuOutOfMemory &&
         EvictOne()) {
    prepared = engine_->Prepare(content.weights);
  }
  GRAFT_RETURN_IF_ERROR(prepared.status());
  {
    absl::MutexLock lock(&mu_);
    entries_.at(&content).device_bytes = (*prepared)->bytes();
  }
  auto counted = std::make_shared<CountedAdapter>();
  GRAFT_ASSIGN_OR_RETURN(counted->bytes, ReserveDevice((*prepared)->bytes()));
  counted->adapter = *std::move(prepared);
  const PreparedAdapter* const adapter = counted->adapter.get();
  return PreparedAdapterPtr(std::move(counted), adapter);
}

absl::StatusOr<std::shared_ptr<const void>> AdapterCache::ReserveDevice(
    int64_t bytes) {
  while (device_->CanHold(bytes)) {
    std::shared_ptr<const void> reserved = device_->TryReserve(bytes);
    if (reserved != nullptr) return reserved;
    // Nothing gives way for what would not fit even then.
    if (!MayGetRoom(bytes) || !EvictOne()) break;
  }
  return DeviceFull(*device_, bytes);
}

// Copies are made from the cache's own pointer only with the lock: if it is the
// only one, it stays the only one.
bool AdapterCache::IsIdle(const Entry& entry) {
  return entry.prepared != nullptr && entry.pins == 0 &&
         entry.prepared.use_count() == 1;
}

bool AdapterCache::MayGetRoom(int64_t bytes) const {
  if (device_->limit() == 0) return true;
  absl::ReaderMutexLock lock(&mu_);
  int64_t needed = device_->used() + bytes;
  for (const auto& [content, entry] : entries_) {
    if (IsIdle(entry)) needed -= entry.prepared->bytes();
  }
  return needed <= device_->limit();
}

absl::Status AdapterCache::CheckRoom(absl::Span<const PreparedAdapterPtr> held,
                                     int64_t bytes) const {
  if (device_->limit() == 0) return absl::OkStatus();
  int64_t together = bytes;
  for (const PreparedAdapterPtr& prepared : held) together += prepared->bytes();
  int64_t pinned = 0;  // of others
  {
    absl::ReaderMutexLock lock(&mu_);
    for (const auto& [content, entry] : entries_) {
      if (entry.prepared != nullptr && entry.pins > 0 &&
          std::find(held.begin(), held.end(), entry.prepared) == held.end()) {
        pinned += entry.prepared->bytes();
      }
    }
  }
  if (together + pinned <= device_->limit()) return absl::OkStatus();
  const std::string taken =
      pinned == 0 ? "" : absl::StrCat(", of which pinned ones take ", pinned);
  return Error(ErrorReason::kAdapterCacheFull,
               absl::StrCat("the request's adapters take ", together,
                            " bytes on the device, and this server keeps ",
                            device_->limit(), " for adapters", taken,
                            "; name fewer adapters, ",
                            pinned == 0 ? "" : "unpin others, ",
                            "or raise --max_adapter_device_bytes"),
               {{"wanted_bytes", absl::StrCat(together)},
                {"limit_bytes", absl::StrCat(device_->limit())}});
}

int64_t AdapterCache::KnownBytes(const AdapterContent& content) const {
  absl::ReaderMutexLock lock(&mu_);
  return entries_.at(&content).device_bytes;
}

bool AdapterCache::EvictOne() {
  PreparedAdapterPtr dropped;
  absl::MutexLock lock(&mu_);
  Entry* oldest = nullptr;
  for (auto& [content, entry] : entries_) {
    if (!IsIdle(entry)) continue;
    if (oldest == nullptr || entry.last_use < oldest->last_use) {
      oldest = &entry;
    }
  }
  if (oldest == nullptr) return false;
  dropped = std::move(oldest->prepared);
  ++evictions_;
  return true;
}

void AdapterCache::Pin(const AdapterContent& content) {
  absl::MutexLock lock(&mu_);
  ++entries_.at(&content).pins;
}

void AdapterCache::Unpin(const AdapterContent& content) {
  absl::MutexLock lock(&mu_);
  --entries_.at(&content).pins;
}

PreparedAdapterPtr AdapterCache::TakeUnshared(
    const AdapterContentPtr& content) {
  absl::MutexLock lock(&mu_);  // without which nobody can find the content
  if (content.use_count() > 1) return nullptr;
  return std::move(entries_.at(content.get()).prepared);
}

AdapterCache::Place AdapterCache::Locate(const AdapterContent& content) const {
  absl::ReaderMutexLock lock(&mu_);
  const Entry& entry = entries_.at(&content);
  return {entry.prepared == nullptr ? AdapterResidency::kHost
                                    : AdapterResidency::kDevice,
          entry.device_bytes};
}

AdapterCache::Counts AdapterCache::counts() const {
  absl::ReaderMutexLock lock(&mu_);
  Counts counts;
  for (const auto& [content, entry] : entries_) {
    ++counts.host;
    if (entry.prepared != nullptr) ++counts.device;
  }
  return counts;
}

int64_t AdapterCache::evictions() const {
  absl::ReaderMutexLock lock(&mu_);
  return evictions_;
}

void AdapterCache::Forget(const AdapterContent* content) {
  PreparedAdapterPtr dropped;
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(content);
  dropped = std::move(found->second.prepared);
  entries_.erase(found);
}

}  // namespace graft
