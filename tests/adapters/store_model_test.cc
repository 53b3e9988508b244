// Many threads do everything at random to a store that is too small for its
// adapters, while their files change. Whatever happens, a request runs with a
// content of the name that it gave, and nothing is left behind.

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_store.h"
#include "server/common/error.h"
#include "tests/adapters/store_fixture.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AnyOf;

constexpr int kThreads = 16;
constexpr int kRounds = 200;
constexpr int kVersions = 3;
constexpr int kOnHost = 4;
constexpr int kOnDevice = 2;

class StoreModelTest : public StoreFixture {
 protected:
  StoreModelTest() {
    MakeStore(kOnHost, kOnDevice, /*autoload=*/true);
    for (const char* name : {"a", "b", "c", "d", "e"}) {
      for (int version = 0; version < kVersions; ++version) {
        digests_[name].insert(DigestOf(name, version));
      }
    }
  }

  // One thread's life.
  void Contend(int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    for (int round = 0; round < kRounds; ++round) {
      const std::string name(1, static_cast<char>('a' + random() % 5));
      Act(static_cast<int>(random() % 16), name,
          static_cast<int>(random() % kVersions));
    }
  }

  void Act(int action, const std::string& name, int version) {
    switch (action) {
      case 0:
        return Unload(name, UnloadMode::kWait);
      case 1:
        return Unload(name, UnloadMode::kForce);
      case 2:
        return Unload(name, UnloadMode::kOnlyIfUnused);
      case 3:
        return LoadAsked(name);
      case 4:
      case 5:
        return CheckPin(name, action == 4);
      case 6:
        return CheckList();
      default:
        return Use(name, version);
    }
  }

  void Use(const std::string& name, int version) {
    absl::StatusOr<AdapterHandle> handle = store_->AcquireResident(name);
    if (!handle.ok()) {
      EXPECT_THAT(handle, HasReason(ErrorReason::kAdapterCacheFull));
      return;
    }
    AdapterHandle& used = *handle;
    const auto cancelled = std::make_shared<std::atomic<bool>>(false);
    used.OnForcedUnload(
        [cancelled] { EXPECT_FALSE(cancelled->exchange(true)); });
    const std::string digest = used.sha256();
    EXPECT_EQ(used.name(), name);
    EXPECT_EQ(digests_.at(name).count(digest), 1u);
    if (version == 0) CheckList();
    // Still the same, whatever others did to the name.
    ASSERT_TRUE(used.resident());
    EXPECT_EQ(used.prepared()->sha256(), digest);
    EXPECT_EQ(used.prepared()->bytes(), kDeviceBytes);
  }

  void LoadAsked(const std::string& name) {
    const auto result = store_->Load({.path = name + ".safetensors"});
    if (!result.ok()) {
      EXPECT_THAT(result, AnyOf(HasReason(ErrorReason::kAdapterCacheFull),
                                HasReason(ErrorReason::kAdapterConflict)));
    }
  }

  void Unload(const std::string& name, UnloadMode mode) {
    // Shared: the last handle of another thread may end the unload.
    const auto done = std::make_shared<absl::Notification>();
    store_->Unload(name, mode, [done](const auto& result) {
      if (!result.ok()) {
        EXPECT_THAT(result, AnyOf(HasReason(ErrorReason::kAdapterNotFound),
                                  HasReason(ErrorReason::kAdapterPinned),
                                  HasReason(ErrorReason::kAdapterInUse)));
      }
      done->Notify();
    });
    EXPECT_TRUE(done->WaitForNotificationWithTimeout(absl::Seconds(60)));
  }

  void CheckPin(const std::string& name, bool pinned) {
    const auto result = store_->SetPinned(name, pinned);
    if (!result.ok()) {
      EXPECT_THAT(result, HasReason(ErrorReason::kAdapterNotFound));
    }
  }

  void CheckList() {
    for (const AdapterInfo& info : store_->List()) {
      EXPECT_NE(info.state, AdapterState::kGone);
      EXPECT_GE(info.in_flight, 0);
    }
    const AdapterStoreStats stats = store_->stats();
    EXPECT_LE(stats.host_bytes, kOnHost * FileBytes());
    EXPECT_LE(stats.device_bytes, kOnDevice * kDeviceBytes);
  }

  // Replaces files and polls until the others are done.
  void ChangeFiles(const std::atomic<bool>& stop) {
    std::mt19937 random(99);
    while (!stop) {
      const std::string name(1, static_cast<char>('a' + random() % 5));
      Replace(name, FileOf(name, static_cast<int>(random() % kVersions)));
      for (const auto& [failed, status] : store_->Poll().failures) {
        EXPECT_THAT(status, HasReason(ErrorReason::kAdapterCacheFull));
      }
    }
  }

  std::map<std::string, std::set<std::string>> digests_;
};

TEST_F(StoreModelTest, NothingIsMixedUpOrLeftBehind) {
  std::atomic<bool> stop{false};
  std::thread changer([&] { ChangeFiles(stop); });
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([this, i] { Contend(i); });
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  changer.join();

  EXPECT_GT(store_->stats().device_evictions, 0);
  EXPECT_GT(store_->stats().host_evictions, 0);
  for (const AdapterInfo& info : store_->List()) {
    EXPECT_EQ(info.state, AdapterState::kActive);
    EXPECT_EQ(info.in_flight, 0);
    EXPECT_THAT(store_->SetPinned(info.name, false), IsOk());
    EXPECT_THAT(StoreFixture::Unload(info.name), IsOk());
  }
  EXPECT_EQ(engine_.live_prepared(), 0);
  EXPECT_EQ(store_->stats().host_bytes, 0);
  EXPECT_EQ(store_->stats().device_bytes, 0);
}

}  // namespace
}  // namespace graft
