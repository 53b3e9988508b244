// Adapters that are loaded by the first request that names them, and their
// files, which may change meanwhile.

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_store.h"
#include "server/common/error.h"
#include "server/common/executor.h"
#include "tests/adapters/store_fixture.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using Call = FakeEngine::Call;

class AutoloadTest : public StoreFixture {
 protected:
  AutoloadTest() { MakeStore(0, 0, /*autoload=*/true); }

  std::string DigestInUse(const std::string& name) {
    return store_->AcquireResident(name).value().sha256();
  }
};

TEST_F(AutoloadTest, TheFirstRequestLoadsTheFile) {
  const auto handle = store_->AcquireResident("a", DigestOf("a"));
  ASSERT_THAT(handle, IsOk());
  EXPECT_EQ(handle->sha256(), DigestOf("a"));
  EXPECT_TRUE(handle->resident());
  const AdapterInfo info = store_->Get("a").value();
  EXPECT_TRUE(info.autoloaded);
  EXPECT_EQ(info.path, "a.safetensors");
  EXPECT_EQ(info.in_flight, 1);
  EXPECT_EQ(store_->stats().misses, 1);
  EXPECT_EQ(store_->stats().loads, 1);
}

TEST_F(AutoloadTest, IsOffByDefault) {
  MakeStore(0, 0);
  EXPECT_THAT(store_->AcquireResident("a"),
              HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_EQ(reads(), 0);
}

TEST_F(AutoloadTest, AcquireAloneLoadsNothing) {
  EXPECT_THAT(store_->Acquire("a"), HasReason(ErrorReason::kAdapterNotFound));
}

TEST_F(AutoloadTest, ManyRequestsReadTheFileOnce) {
  AcquireAtOnce("a", 32);
  EXPECT_EQ(reads(), 2);
  EXPECT_EQ(engine_.calls(Call::kPrepare), 1);
  EXPECT_EQ(store_->stats().loads, 1);
}

// Keeps the engine's first Prepare from going on until it is opened, or ends.
class FirstPrepareHeld {
 public:
  explicit FirstPrepareHeld(FakeEngine& engine) {
    engine.OnCall(Call::kPrepare, [this] {
      if (is_first_.exchange(false)) {
        reached_.Notify();
        open_.WaitForNotification();
      }
    });
  }
  ~FirstPrepareHeld() {
    if (!open_.HasBeenNotified()) open_.Notify();
  }
  void WaitUntilReached() { reached_.WaitForNotification(); }
  void Open() { open_.Notify(); }

 private:
  std::atomic<bool> is_first_{true};
  absl::Notification reached_;
  absl::Notification open_;
};

// What one request for an adapter got. The result is to be read when the
// executor is gone: that its threads have ended the thread sanitizer sees.
struct Outcome {
  absl::Notification done;
  absl::StatusOr<AdapterHandle> handle;
};

class SharedLoadTest : public AutoloadTest {
 protected:
  // A request on `executor`, which reports to `outcome`.
  void Request(const std::string& name, Executor& executor, Outcome& outcome) {
    executor.Run([this, name, &executor, &outcome] {
      store_->AcquireResident(name, "", &executor,
                              [&outcome](absl::StatusOr<AdapterHandle> handle) {
                                outcome.handle = std::move(handle);
                                outcome.done.Notify();
                              });
    });
  }

  // While the first request for "a" is held, as many as like wait for it, and
  // one for "b" passes them.
  void ExpectOthersPass() {
    Outcome first, second, third, other;
    {
      FirstPrepareHeld held(engine_);
      ThreadPoolExecutor executor(2);
      Request("a", executor, first);
      held.WaitUntilReached();
      Request("a", executor, second);
      Request("a", executor, third);
      Request("b", executor, other);
      EXPECT_TRUE(other.done.WaitForNotificationWithTimeout(absl::Seconds(60)));
      EXPECT_FALSE(first.done.HasBeenNotified());
      EXPECT_FALSE(second.done.HasBeenNotified());
      held.Open();
    }
    for (Outcome* outcome : {&first, &second, &third, &other}) {
      ASSERT_THAT(outcome->handle, IsOk());
      EXPECT_TRUE(outcome->handle->resident());
    }
    EXPECT_EQ(first.handle->sha256(), DigestOf("a"));
    EXPECT_EQ(third.handle->sha256(), DigestOf("a"));
    EXPECT_EQ(other.handle->sha256(), DigestOf("b"));
  }
};

TEST_F(SharedLoadTest, WaitingForAnothersLoadTakesNoThread) {
  ExpectOthersPass();
  EXPECT_EQ(reads(), 2 * 2);
  EXPECT_EQ(engine_.calls(Call::kPrepare), 2);
  EXPECT_EQ(store_->stats().loads, 2);
  EXPECT_EQ(store_->stats().misses, 4);
}

TEST_F(SharedLoadTest, WaitingForAnothersPreparationTakesNoThread) {
  MakeStore(0, /*on_device=*/2, /*autoload=*/true);
  for (const char* name : {"a", "b", "c", "d"}) {
    ASSERT_THAT(Load(name), IsOk());
  }
  ASSERT_EQ(ResidencyOf("a"), AdapterResidency::kHost);
  ASSERT_EQ(ResidencyOf("b"), AdapterResidency::kHost);
  ExpectOthersPass();
  EXPECT_EQ(engine_.calls(Call::kPrepare), 4 + 2);
  EXPECT_EQ(store_->stats().misses, 4);
}

TEST_F(SharedLoadTest, WaitingForALoadOfTheSameNameTakesNoThread) {
  struct Loaded {
    absl::Notification done;
    absl::StatusOr<AdapterStore::LoadResult> result;
  };
  Loaded first, second, other;
  {
    FirstPrepareHeld held(engine_);
    ThreadPoolExecutor executor(2);
    const auto load = [&](const char* path, Loaded& loaded) {
      executor.Run([this, path, &executor, &loaded] {
        store_->Load({.path = path}, &executor, [&loaded](auto result) {
          loaded.result = std::move(result);
          loaded.done.Notify();
        });
      });
    };
    load("a.safetensors", first);
    held.WaitUntilReached();
    load("a.safetensors", second);
    load("b.safetensors", other);
    EXPECT_TRUE(other.done.WaitForNotificationWithTimeout(absl::Seconds(60)));
    EXPECT_FALSE(first.done.HasBeenNotified());
    EXPECT_FALSE(second.done.HasBeenNotified());
    held.Open();
  }
  ASSERT_THAT(first.result, IsOk());
  ASSERT_THAT(second.result, IsOk());
  EXPECT_FALSE(first.result->already_loaded);
  EXPECT_TRUE(second.result->already_loaded);
  EXPECT_EQ(store_->stats().loads, 2);
  EXPECT_EQ(store_->stats().loads_repeated, 1);
}

// Each tries itself, as it would have alone.
TEST_F(SharedLoadTest, AFailureIsTheFirstRequestsAlone) {
  Outcome first, second;
  {
    FirstPrepareHeld held(engine_);
    ThreadPoolExecutor executor(2);
    engine_.Fail(Call::kPrepare, Error(ErrorReason::kGpuOutOfMemory, "full"));
    Request("a", executor, first);
    held.WaitUntilReached();
    Request("a", executor, second);
    held.Open();
  }
  EXPECT_THAT(first.handle, HasReason(ErrorReason::kGpuOutOfMemory));
  EXPECT_THAT(second.handle, HasReason(ErrorReason::kGpuOutOfMemory));
  EXPECT_EQ(engine_.calls(Call::kPrepare), 2);
  EXPECT_EQ(store_->stats().loads_failed, 2);
}

TEST_F(AutoloadTest, FailuresAreNotRemembered) {
  Replace("a", "junk");
  EXPECT_THAT(store_->AcquireResident("a"),
              HasReason(ErrorReason::kAdapterCorrupt));
  EXPECT_THAT(store_->List(), IsEmpty());
  Replace("a", FileOf("a"));
  EXPECT_THAT(store_->AcquireResident("a"), IsOk());
  EXPECT_EQ(store_->stats().loads_failed, 1);
}

TEST_F(AutoloadTest, WithoutAFileTheErrorIsThatOfALoad) {
  const auto missing = store_->AcquireResident("none");
  EXPECT_THAT(missing, HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_THAT(GetErrorMetadata(missing.status()),
              Contains(Pair("resource_name", "none.safetensors")));
}

TEST_F(AutoloadTest, OnlyNamesOfTheTopFolderAreFiles) {
  dir_.Write("root/sub/a.safetensors", FileOf("a"));
  for (const char* name : {"sub/a", "sub/../a", "./a", "a\n", ""}) {
    const auto refused = store_->AcquireResident(name);
    EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterNotFound)) << name;
    EXPECT_THAT(GetErrorMetadata(refused.status()),
                Contains(Pair("resource_type", "Adapter")));
  }
  EXPECT_EQ(reads(), 0);
}

TEST_F(AutoloadTest, AnotherVersionIsNotLoaded) {
  EXPECT_THAT(store_->AcquireResident("a", DigestOf("b")),
              HasReason(ErrorReason::kAdapterVersionMismatch));
  EXPECT_THAT(store_->List(), IsEmpty());
}

TEST_F(AutoloadTest, WhatIsAskedForLaterIsNotAutoloadedAnyMore) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  EXPECT_TRUE(Load("a")->already_loaded);
  EXPECT_FALSE(store_->Get("a")->autoloaded);
}

TEST_F(AutoloadTest, PollFindsNothingWhereNothingChanged) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  const int reads = this->reads();
  const AdapterStore::PollReport report = store_->Poll();
  EXPECT_THAT(report.replaced, IsEmpty());
  EXPECT_THAT(report.unloaded, IsEmpty());
  EXPECT_THAT(report.failures, IsEmpty());
  EXPECT_EQ(this->reads(), reads);
}

TEST_F(AutoloadTest, PollGivesNewRequestsTheNewContent) {
  std::optional<AdapterHandle> under_way = store_->AcquireResident("a").value();
  Replace("a", FileOf("a", 1));
  EXPECT_EQ(DigestInUse("a"), DigestOf("a"));
  EXPECT_THAT(store_->Poll().replaced, ElementsAre("a"));
  EXPECT_EQ(DigestInUse("a"), DigestOf("a", 1));
  EXPECT_EQ(under_way->prepared()->sha256(), DigestOf("a"));
  EXPECT_TRUE(store_->Get("a")->autoloaded);
  under_way.reset();
  EXPECT_EQ(engine_.live_prepared(), 1);
  EXPECT_THAT(store_->Poll().replaced, IsEmpty());
}

TEST_F(AutoloadTest, PollReadsATouchedFileOnce) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("a", FileOf("a"));
  EXPECT_THAT(store_->Poll().replaced, IsEmpty());
  const int reads = this->reads();
  EXPECT_THAT(store_->Poll().replaced, IsEmpty());
  EXPECT_EQ(this->reads(), reads);
  EXPECT_EQ(engine_.calls(Call::kPrepare), 1);
}

TEST_F(AutoloadTest, PollUnloadsWhatIsGoneWhenNobodyUsesIt) {
  std::optional<AdapterHandle> under_way = store_->AcquireResident("a").value();
  std::filesystem::remove(dir_.File("root/a.safetensors"));
  EXPECT_THAT(store_->Poll().unloaded, ElementsAre("a"));
  EXPECT_EQ(store_->Get("a")->state, AdapterState::kUnloading);
  EXPECT_THAT(store_->AcquireResident("a"),
              HasReason(ErrorReason::kAdapterNotFound));
  under_way.reset();
  EXPECT_THAT(store_->List(), IsEmpty());
  EXPECT_EQ(engine_.live_prepared(), 0);
}

TEST_F(AutoloadTest, AFileThatIsBackIsLoadedAgain) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  std::filesystem::remove(dir_.File("root/a.safetensors"));
  store_->Poll();
  Replace("a", FileOf("a", 1));
  EXPECT_EQ(DigestInUse("a"), DigestOf("a", 1));
}

TEST_F(AutoloadTest, PollKeepsTheFormerContentOfABrokenFile) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("a", "junk");
  const AdapterStore::PollReport report = store_->Poll();
  ASSERT_EQ(report.failures.size(), 1u);
  EXPECT_EQ(report.failures[0].first, "a");
  EXPECT_THAT(report.failures[0].second,
              HasReason(ErrorReason::kAdapterCorrupt));
  EXPECT_EQ(DigestInUse("a"), DigestOf("a"));
  // Tried once.
  EXPECT_THAT(store_->Poll().failures, IsEmpty());
  Replace("a", FileOf("a", 1));
  EXPECT_THAT(store_->Poll().replaced, ElementsAre("a"));
}

// The names and reasons of a report's failures.
std::vector<std::pair<std::string, ErrorReason>> FailuresOf(
    const AdapterStore::PollReport& report) {
  std::vector<std::pair<std::string, ErrorReason>> failures;
  for (const auto& [name, status] : report.failures) {
    failures.emplace_back(name, GetErrorReason(status).value());
  }
  return failures;
}

TEST_F(AutoloadTest, PollTriesAgainWhatFailedForAPassingReason) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("a", FileOf("a", 1));
  for (const ErrorReason reason :
       {ErrorReason::kGpuOutOfMemory, ErrorReason::kInternal}) {
    engine_.Fail(Call::kPrepare, Error(reason, "once"));
    EXPECT_THAT(FailuresOf(store_->Poll()), ElementsAre(Pair("a", reason)));
    // Told once.
    const int tried = engine_.calls(Call::kPrepare);
    EXPECT_THAT(FailuresOf(store_->Poll()), IsEmpty());
    EXPECT_GT(engine_.calls(Call::kPrepare), tried);
  }
  EXPECT_EQ(store_->Get("a")->sha256, DigestOf("a"));
  engine_.Fail(Call::kPrepare, absl::OkStatus());
  EXPECT_THAT(store_->Poll().replaced, ElementsAre("a"));
  EXPECT_EQ(DigestInUse("a"), DigestOf("a", 1));
  // What fails anew is told anew.
  engine_.Fail(Call::kPrepare, Error(ErrorReason::kInternal, "again"));
  Replace("a", FileOf("a", 2));
  EXPECT_THAT(FailuresOf(store_->Poll()),
              ElementsAre(Pair("a", ErrorReason::kInternal)));
}

TEST_F(AutoloadTest, PollTriesAgainWhenThereIsRoom) {
  MakeStore(/*on_host=*/2, 0, /*autoload=*/true);
  const AdapterHandle in_use = store_->AcquireResident("a").value();
  ASSERT_THAT(Load("b"), IsOk());
  Replace("a", FileOf("a", 1));
  EXPECT_THAT(FailuresOf(store_->Poll()),
              ElementsAre(Pair("a", ErrorReason::kAdapterCacheFull)));
  EXPECT_THAT(FailuresOf(store_->Poll()), IsEmpty());
  ASSERT_THAT(Unload("b"), IsOk());
  EXPECT_THAT(store_->Poll().replaced, ElementsAre("a"));
}

TEST_F(AutoloadTest, PollTriesWhatNeverFitsOnce) {
  AdapterStore::Options options;
  options.max_device_bytes = kDeviceBytes;
  options.autoload = true;
  store_ = AdapterStore::Create(&source_, &engine_, options).value();
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("a", AdapterFileBuilder()
                   .AddKohyaPair("lora_te_text_model_encoder_layers_0_mlp_fc1",
                                 {9, 8}, {16, 9})
                   .Build());
  EXPECT_THAT(FailuresOf(store_->Poll()),
              ElementsAre(Pair("a", ErrorReason::kAdapterCacheFull)));
  const int tried = engine_.calls(Call::kPrepare);
  EXPECT_THAT(FailuresOf(store_->Poll()), IsEmpty());
  EXPECT_EQ(engine_.calls(Call::kPrepare), tried);
}

TEST_F(AutoloadTest, PollDoesNotBringBackWhatWasUnloadedMeanwhile) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("a", FileOf("a", 1));
  FirstPrepareHeld held(engine_);
  AdapterStore::PollReport report;
  std::thread poll([&] { report = store_->Poll(); });
  held.WaitUntilReached();
  EXPECT_THAT(Unload("a"), IsOk());
  held.Open();
  poll.join();
  EXPECT_THAT(report.replaced, IsEmpty());
  EXPECT_THAT(FailuresOf(report), IsEmpty());
  EXPECT_THAT(store_->Get("a"), HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_EQ(engine_.live_prepared(), 0);
}

TEST_F(AutoloadTest, PollReplacesWhatGivesWayToTheNewContent) {
  MakeStore(/*on_host=*/1, 0, /*autoload=*/true);
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("a", FileOf("a", 1));
  EXPECT_THAT(store_->Poll().replaced, ElementsAre("a"));
  EXPECT_EQ(store_->Get("a")->sha256, DigestOf("a", 1));
}

TEST_F(AutoloadTest, WithoutTheDirectoryPollUnloadsNothing) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  std::filesystem::rename(dir_.File("root"), dir_.File("away"));
  const AdapterStore::PollReport report = store_->Poll();
  EXPECT_THAT(report.unloaded, IsEmpty());
  ASSERT_EQ(report.failures.size(), 1u);
  EXPECT_EQ(report.failures[0].first, "");
  EXPECT_THAT(store_->Poll().failures, IsEmpty());  // told
  EXPECT_EQ(DigestInUse("a"), DigestOf("a"));
}

TEST_F(AutoloadTest, PollLeavesWhatWasAskedForAlone) {
  ASSERT_THAT(Load("a"), IsOk());
  Replace("a", FileOf("a", 1));
  EXPECT_THAT(store_->Poll().replaced, IsEmpty());
  std::filesystem::remove(dir_.File("root/a.safetensors"));
  EXPECT_THAT(store_->Poll().unloaded, IsEmpty());
  EXPECT_EQ(DigestInUse("a"), DigestOf("a"));
}

// Between the look at all of them and that at each, what has the name now may
// be another's.
TEST_F(AutoloadTest, PollLeavesWhatWasReplacedMeanwhileAlone) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  ASSERT_THAT(store_->AcquireResident("b"), IsOk());
  std::filesystem::remove(dir_.File("root/a.safetensors"));
  Replace("b", FileOf("b", 1));
  bool replaced = false;
  const AdapterStore::PollReport report = store_->Poll([&] {
    if (!replaced) {
      replaced = true;
      for (const char* const name : {"a", "b"}) {
        EXPECT_THAT(
            store_->Load(
                {.path = "c.safetensors", .name = name, .allow_replace = true}),
            IsOk());
      }
    }
    return false;
  });
  EXPECT_THAT(report.unloaded, IsEmpty());
  EXPECT_THAT(report.replaced, IsEmpty());
  EXPECT_EQ(DigestInUse("a"), DigestOf("c"));
  EXPECT_EQ(DigestInUse("b"), DigestOf("c"));
}

TEST_F(AutoloadTest, PollStopsWhenItIsToldTo) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  ASSERT_THAT(store_->AcquireResident("b"), IsOk());
  for (const char* const name : {"a", "b"}) Replace(name, FileOf(name, 1));
  int asked = 0;
  EXPECT_THAT(store_->Poll([&asked] { return ++asked > 1; }).replaced,
              ElementsAre("a"));
}

TEST_F(AutoloadTest, PollLeavesAPinnedAdapterWithoutAFileAlone) {
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  ASSERT_THAT(store_->SetPinned("a", true), IsOk());
  std::filesystem::remove(dir_.File("root/a.safetensors"));
  EXPECT_THAT(store_->Poll().unloaded, IsEmpty());
  EXPECT_EQ(DigestInUse("a"), DigestOf("a"));
}

}  // namespace
}  // namespace graft
