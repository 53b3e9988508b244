#ifndef GRAFT_TESTS_ADAPTERS_STORE_FIXTURE_H_
#define GRAFT_TESTS_ADAPTERS_STORE_FIXTURE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_source.h"
#include "server/adapters/adapter_store.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/temp_dir.h"

namespace graft {

// A store with limits over a directory with the adapters "a" to "e".
class StoreFixture : public testing::Test {
 protected:
  // What each of them takes on the device of a FakeEngine, and in its file.
  static constexpr int64_t kDeviceBytes = 4 * (2 * 8 + 8 * 2 + 2 * 8 + 16 * 2);
  static int64_t FileBytes();

  // The content of an adapter, or of a later version of it, and its digest.
  static std::string FileOf(const std::string& name, int version = 0);
  static std::string DigestOf(const std::string& name, int version = 0);

  StoreFixture();

  // Replaces the store, whose limits can hold this many adapters; 0: none.
  void MakeStore(int on_host, int on_device, bool autoload = false);

  // Puts another version of the adapter's file in place of the present one, as
  // a rename does it.
  void Replace(const std::string& name, const std::string& bytes);

  absl::StatusOr<AdapterStore::LoadResult> Load(const std::string& name);

  // The outcome of an unload that does not have to wait.
  absl::StatusOr<PreparedAdapterPtr> Unload(
      const std::string& name, UnloadMode mode = UnloadMode::kWait);

  // AcquireResident from `count` threads at once: the first Prepare goes on
  // when all have begun, and the handles end when all have theirs.
  void AcquireAtOnce(const std::string& name, int count);

  AdapterResidency ResidencyOf(const std::string& name) const {
    return store_->Get(name).value().residency;
  }

  // Calls of read(2) so far: two for each file that is read whole.
  int reads() const { return reads_; }

  TempDir dir_;
  FakeEngine engine_;
  std::atomic<int> reads_{0};
  const AdapterSource source_;
  std::unique_ptr<AdapterStore> store_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_ADAPTERS_STORE_FIXTURE_H_
