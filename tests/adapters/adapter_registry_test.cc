#include "server/adapters/adapter_registry.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

std::shared_ptr<AdapterRegistry> MakeRegistry() {
  return std::make_shared<AdapterRegistry>(std::make_shared<AdapterCache>(
      /*engine=*/nullptr, AdapterCache::Options()));
}

TEST(AdapterRegistryTest, LoadsOfOneNameTakeTurns) {
  const auto registry = MakeRegistry();
  const int64_t first = registry->BeginLoad("ink", "a.safetensors");
  absl::Notification second_began;
  std::thread second([&] {
    const int64_t id = registry->BeginLoad("ink", "b.safetensors");
    second_began.Notify();
    registry->AbandonLoad("ink", id);
  });
  // Nothing can tell that a thread will wait for ever. A load that does not
  // wait begins within this time.
  EXPECT_FALSE(
      second_began.WaitForNotificationWithTimeout(absl::Milliseconds(100)));
  registry->AbandonLoad("ink", first);
  EXPECT_TRUE(second_began.WaitForNotificationWithTimeout(absl::Seconds(60)));
  second.join();
  EXPECT_TRUE(registry->List().empty());
}

TEST(AdapterRegistryTest, ALoadThatMayNotWaitIsToldWhenItsTurnHasCome) {
  const auto registry = MakeRegistry();
  int told = 0;
  const auto again = [&told] { ++told; };
  const std::optional<int64_t> first =
      registry->TryBeginLoad("ink", "a.safetensors", again);
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(
      registry->TryBeginLoad("ink", "b.safetensors", again).has_value());
  EXPECT_FALSE(
      registry->TryBeginLoad("ink", "c.safetensors", again).has_value());
  EXPECT_EQ(told, 0);
  registry->AbandonLoad("ink", *first);
  EXPECT_EQ(told, 2);
  const std::optional<int64_t> second =
      registry->TryBeginLoad("ink", "b.safetensors", again);
  ASSERT_TRUE(second.has_value());
  registry->AbandonLoad("ink", *second);
  EXPECT_EQ(told, 2);
}

// A load that found its content active must not count on it: an unload may
// have come between.
TEST(AdapterRegistryTest, OnlyWhatIsActiveCanBeConfirmed) {
  const auto registry = MakeRegistry();
  AdapterContent content;
  content.weights.sha256 = "1";
  AdapterInfo info;
  info.name = "ink";
  info.sha256 = "1";
  const auto inserted = registry->cache().Insert(content);
  registry->Activate(registry->BeginLoad("ink", "a.safetensors"), info,
                     inserted, FileStamp(), nullptr);
  EXPECT_TRUE(registry->Confirm("ink", "1", FileStamp(), true));
  EXPECT_FALSE(registry->Confirm("ink", "2", FileStamp(), true));
  ASSERT_TRUE(registry->Unload("ink", UnloadMode::kWait, nullptr).ok());
  EXPECT_FALSE(registry->Confirm("ink", "1", FileStamp(), true));
}

TEST(AdapterRegistryTest, LoadsOfDifferentNamesDoNotWait) {
  const auto registry = MakeRegistry();
  const int64_t ink = registry->BeginLoad("ink", "a.safetensors");
  const int64_t pen = registry->BeginLoad("pen", "a.safetensors");
  EXPECT_EQ(registry->List().size(), 2u);
  registry->AbandonLoad("ink", ink);
  registry->AbandonLoad("pen", pen);
  EXPECT_TRUE(registry->List().empty());
}

}  // namespace
}  // namespace graft
