#include "tests/adapters/store_fixture.h"

#include <unistd.h>

#include <filesystem>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "server/common/sha256.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {

std::string StoreFixture::FileOf(const std::string& name, int version) {
  // Two digits, so that all files have one size.
  return TinyLoraFile(10 + (name[0] - 'a') * 10 + version);
}

std::string StoreFixture::DigestOf(const std::string& name, int version) {
  const std::string bytes = FileOf(name, version);
  return Sha256Hex(bytes.data(), bytes.size());
}

int64_t StoreFixture::FileBytes() {
  return static_cast<int64_t>(FileOf("a").size());
}

StoreFixture::StoreFixture()
    : source_({.directory = dir_.File("root")},
              [this](int fd, void* buffer, size_t size) {
                ++reads_;
                return ::read(fd, buffer, size);
              }) {
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    dir_.Write(std::string("root/") + name + ".safetensors", FileOf(name));
  }
  MakeStore(0, 0);
}

void StoreFixture::MakeStore(int on_host, int on_device, bool autoload) {
  AdapterStore::Options options;
  options.max_host_bytes = on_host * FileBytes();
  options.max_device_bytes = on_device * kDeviceBytes;
  options.autoload = autoload;
  store_ = AdapterStore::Create(&source_, &engine_, options).value();
}

void StoreFixture::Replace(const std::string& name, const std::string& bytes) {
  std::filesystem::rename(dir_.Write("new", bytes),
                          dir_.File("root/" + name + ".safetensors"));
}

absl::StatusOr<AdapterStore::LoadResult> StoreFixture::Load(
    const std::string& name) {
  return store_->Load({.path = name + ".safetensors"});
}

absl::StatusOr<PreparedAdapterPtr> StoreFixture::Unload(const std::string& name,
                                                        UnloadMode mode) {
  std::optional<absl::StatusOr<PreparedAdapterPtr>> outcome;
  store_->Unload(name, mode,
                 [&outcome](auto result) { outcome = std::move(result); });
  if (outcome.has_value()) return *std::move(outcome);
  ADD_FAILURE() << "the unload of " << name << " waits";
  return absl::UnknownError("waits");
}

void StoreFixture::AcquireAtOnce(const std::string& name, int count) {
  std::vector<absl::StatusOr<AdapterHandle>> handles(
      static_cast<size_t>(count));
  std::vector<std::thread> threads;
  absl::BlockingCounter started(count);
  std::atomic<bool> waited{false};
  engine_.OnCall(FakeEngine::Call::kPrepare, [&started, &waited] {
    if (!waited.exchange(true)) started.Wait();
  });
  for (auto& handle : handles) {
    threads.emplace_back([&handle, &name, &started, this] {
      started.DecrementCount();
      handle = store_->AcquireResident(name);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& handle : handles) EXPECT_TRUE(handle.ok());
}

}  // namespace graft
