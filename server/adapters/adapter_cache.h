#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_CACHE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_CACHE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "server/adapters/adapter_info.h"
#include "server/adapters/byte_budget.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/engine.h"

namespace graft {

// What was parsed from one file, in host memory. Immutable.
struct AdapterContent {
  AdapterWeights weights;
  AdapterReport report;
  int64_t size_bytes = 0;  // of the file, whose memory the weights share
  std::shared_ptr<const void> host_bytes = nullptr;  // counts size_bytes
};
using AdapterContentPtr = std::shared_ptr<const AdapterContent>;

// True for the error of an adapter that will have room on the device at another
// time.
bool IsDeviceFullForNow(const absl::Status& status);

// The two levels of memory under the names: contents in host memory, one of a
// kind however many names they have, and, of some of them, what the engine has
// prepared on the device.
//
// A content lives as long as somebody has a pointer to it. What is prepared of
// it can go earlier, when others need the room, and is prepared again from the
// content. It never goes while a request or the engine holds it: so what is
// dropped is free at once.
//
// Held by every content. Thread-safe; the engine is called, and what it made is
// destroyed, without the lock.
class AdapterCache : public std::enable_shared_from_this<AdapterCache> {
 public:
  struct Options {
    int64_t max_host_bytes = 0;    // 0: no limit
    int64_t max_device_bytes = 0;  // 0: no limit
  };

  // Goes on with what had to wait for another thread: called once, without a
  // lock, on that thread, when it is done. It should not block there.
  using Continuation = std::function<void()>;

  // `engine` outlives all calls of MakeResident.
  AdapterCache(const Engine* engine, const Options& options);

  // The content with this digest; null if there is none.
  AdapterContentPtr Find(absl::string_view sha256) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // Adds `content`, or finds that another thread was faster. Null, and
  // `content` as it was, if it does not fit in the host's budget.
  AdapterContentPtr Insert(AdapterContent& content) ABSL_LOCKS_EXCLUDED(mu_);

  // What is prepared of `content`, which counts as a use of it; null if nothing
  // is. Does not block.
  PreparedAdapterPtr Use(const AdapterContent& content)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The same, after preparing it if need be; that may drop what was not used
  // for the longest time. Blocks; several threads prepare a content once.
  // ADAPTER_CACHE_FULL if the device's budget has no room, with a retry delay
  // if it is in use now, without one if it is too small; else as
  // Engine::Prepare.
  absl::StatusOr<PreparedAdapterPtr> MakeResident(
      const AdapterContentPtr& content) ABSL_LOCKS_EXCLUDED(mu_);

  // The same, but while another thread prepares it, does not wait for that:
  // returns nullopt, and calls `again` afterwards.
  std::optional<absl::StatusOr<PreparedAdapterPtr>> TryMakeResident(
      const AdapterContentPtr& content, Continuation again)
      ABSL_LOCKS_EXCLUDED(mu_);

  // OK if `bytes` more would fit on the device beside `held` and what is
  // pinned, were nothing else there; else ADAPTER_CACHE_FULL without a retry
  // delay.
  absl::Status CheckRoom(absl::Span<const PreparedAdapterPtr> held,
                         int64_t bytes) const ABSL_LOCKS_EXCLUDED(mu_);

  // While a content has more Pin than Unpin, what is prepared of it stays.
  void Pin(const AdapterContent& content) ABSL_LOCKS_EXCLUDED(mu_);
  void Unpin(const AdapterContent& content) ABSL_LOCKS_EXCLUDED(mu_);

  // Drops what nobody holds, is not pinned and was not used for the longest
  // time; false if there is no such thing.
  bool EvictOne() ABSL_LOCKS_EXCLUDED(mu_);

  // Takes what is prepared of `content` out of the cache; null if nothing is,
  // or if anybody else has the content (another name, or a load that has just
  // found it), who is to find it prepared.
  PreparedAdapterPtr TakeUnshared(const AdapterContentPtr& content)
      ABSL_LOCKS_EXCLUDED(mu_);

  // kHost or kDevice, and the bytes on the device if it was ever prepared.
  struct Place {
    AdapterResidency residency = AdapterResidency::kHost;
    int64_t device_bytes = 0;
  };
  Place Locate(const AdapterContent& content) const ABSL_LOCKS_EXCLUDED(mu_);

  // Contents in host memory, and how many of them are prepared.
  struct Counts {
    int64_t host = 0;
    int64_t device = 0;
  };
  Counts counts() const ABSL_LOCKS_EXCLUDED(mu_);

  // How often something prepared was dropped to make room.
  int64_t evictions() const ABSL_LOCKS_EXCLUDED(mu_);

  const ByteBudget& host() const { return *host_; }
  const ByteBudget& device() const { return *device_; }

 private:
  struct Entry {
    std::weak_ptr<const AdapterContent> content;
    PreparedAdapterPtr prepared;  // null: not on the device
    int64_t device_bytes = 0;
    int pins = 0;
    int64_t last_use = 0;               // a count, as clocks can be set
    bool preparing = false;             // by some thread
    std::vector<Continuation> waiting;  // for that thread
  };

  AdapterContentPtr FindLocked(absl::string_view sha256) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // What is prepared of `entry`, which counts as a use of it; where that is
  // null, the caller is to prepare it: FinishPreparing. REQUIRES: nobody does.
  PreparedAdapterPtr UseOrBegin(Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<PreparedAdapterPtr> FinishPreparing(
      const AdapterContent& content) ABSL_LOCKS_EXCLUDED(mu_);

  // Prepares `content` and counts its bytes until the last reference is gone,
  // the engine's included.
  absl::StatusOr<PreparedAdapterPtr> Prepare(const AdapterContent& content)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::shared_ptr<const void>> ReserveDevice(int64_t bytes)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Whether it is prepared, nobody holds that and it is not pinned.
  static bool IsIdle(const Entry& entry);

  // Whether `bytes` would fit on the device if all that is idle gave way.
  bool MayGetRoom(int64_t bytes) const ABSL_LOCKS_EXCLUDED(mu_);

  // What `content` takes on the device; 0 if it was never prepared.
  int64_t KnownBytes(const AdapterContent& content) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // The last pointer to `content` is gone.
  void Forget(const AdapterContent* content) ABSL_LOCKS_EXCLUDED(mu_);

  const Engine* const engine_;
  const std::shared_ptr<ByteBudget> host_;
  const std::shared_ptr<ByteBudget> device_;
  mutable absl::Mutex mu_;
  std::map<const AdapterContent*, Entry> entries_ ABSL_GUARDED_BY(mu_);
  int64_t uses_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t evictions_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_CACHE_H_
