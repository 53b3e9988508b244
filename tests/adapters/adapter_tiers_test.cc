// The store's two levels of memory: budgets, eviction, pins, shared contents,
// and the ways to unload.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_store.h"
#include "server/common/error.h"
#include "tests/adapters/store_fixture.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using Call = FakeEngine::Call;
using Residency = AdapterResidency;

class AdapterTiersTest : public StoreFixture {
 protected:
  // A valid file with as many bytes more.
  static std::string LargeFile(int64_t rank, int64_t more) {
    return AdapterFileBuilder()
        .AddKohyaPair("lora_te_text_model_encoder_layers_0_mlp_fc1", {rank, 8},
                      {16, rank})
        .Metadata("padding", std::string(static_cast<size_t>(more), ' '))
        .Build();
  }
};

TEST_F(AdapterTiersTest, InfoAndStatsTellWhereItIs) {
  ASSERT_THAT(Load("a"), IsOk());
  const AdapterInfo info = store_->Get("a").value();
  EXPECT_EQ(info.residency, Residency::kDevice);
  EXPECT_EQ(info.host_bytes, FileBytes());
  EXPECT_EQ(info.device_bytes, kDeviceBytes);
  EXPECT_FALSE(info.pinned);
  EXPECT_FALSE(info.autoloaded);
  EXPECT_THAT(Load("a"), IsOk());
  EXPECT_FALSE(Load("none").ok());
  const AdapterStoreStats stats = store_->stats();
  EXPECT_EQ(stats.loads, 1);
  EXPECT_EQ(stats.loads_repeated, 1);
  EXPECT_EQ(stats.loads_failed, 1);
  EXPECT_EQ(stats.host_bytes, FileBytes());
  EXPECT_EQ(stats.device_bytes, kDeviceBytes);
}

TEST_F(AdapterTiersTest, WhatTheHostCanNeverHoldIsNotRead) {
  MakeStore(/*on_host=*/1, 0);
  Replace("a", FileOf("a") + "x");
  for (const bool validate_only : {false, true}) {
    const auto refused =
        store_->Load({.path = "a.safetensors", .validate_only = validate_only});
    EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterCacheFull,
                                   HasSubstr("--max_adapter_host_bytes")));
    EXPECT_THAT(GetErrorMetadata(refused.status()),
                Contains(Pair("wanted_bytes", absl::StrCat(FileBytes() + 1))));
  }
  EXPECT_EQ(reads(), 0);
  EXPECT_THAT(Load("b"), IsOk());
}

TEST_F(AdapterTiersTest, AFullDeviceDropsWhatWasNotUsedForLongest) {
  MakeStore(0, /*on_device=*/2);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  EXPECT_THAT(store_->Acquire("a"), IsOk());
  ASSERT_THAT(Load("c"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kDevice);
  EXPECT_EQ(ResidencyOf("b"), Residency::kHost);
  EXPECT_EQ(ResidencyOf("c"), Residency::kDevice);
  EXPECT_EQ(engine_.live_prepared(), 2);
  EXPECT_EQ(store_->stats().device_evictions, 1);
  EXPECT_EQ(store_->stats().host_adapters, 3);
  EXPECT_EQ(store_->stats().device_adapters, 2);
  EXPECT_EQ(store_->stats().device_bytes, 2 * kDeviceBytes);
  EXPECT_EQ(store_->stats().max_device_bytes, 2 * kDeviceBytes);
}

TEST_F(AdapterTiersTest, WhatWasDroppedIsPreparedAgainFromHostMemory) {
  MakeStore(0, 1);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  const int reads = this->reads();
  EXPECT_FALSE(store_->Acquire("a")->resident());
  const auto handle = store_->AcquireResident("a");
  ASSERT_THAT(handle, IsOk());
  EXPECT_EQ(handle->prepared()->sha256(), DigestOf("a"));
  EXPECT_EQ(ResidencyOf("b"), Residency::kHost);
  EXPECT_EQ(this->reads(), reads);
  EXPECT_EQ(store_->stats().misses, 1);
  EXPECT_EQ(store_->stats().hits, 0);
  EXPECT_THAT(store_->Acquire("a"), IsOk());
  EXPECT_EQ(store_->stats().hits, 1);
  EXPECT_EQ(store_->stats().misses, 1);
}

TEST_F(AdapterTiersTest, WhatARequestHoldsIsNotDropped) {
  MakeStore(0, 1);
  ASSERT_THAT(Load("a"), IsOk());
  std::optional<AdapterHandle> handle = store_->Acquire("a").value();
  ASSERT_THAT(Load("b"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kDevice);
  EXPECT_EQ(ResidencyOf("b"), Residency::kHost);
  const auto refused = store_->AcquireResident("b");
  EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterCacheFull));
  EXPECT_TRUE(GetRetryDelay(refused.status()).has_value());
  EXPECT_EQ(store_->Get("b")->in_flight, 0);
  handle.reset();
  EXPECT_THAT(store_->AcquireResident("b"), IsOk());
}

TEST_F(AdapterTiersTest, WhatIsMergedIsNotDropped) {
  MakeStore(0, 1);
  ASSERT_THAT(Load("a"), IsOk());
  ASSERT_THAT(
      engine_.SwitchAdapters({{.adapter = store_->Acquire("a")->prepared()}}),
      IsOk());
  ASSERT_THAT(Load("b"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kDevice);
  ASSERT_THAT(engine_.SwitchAdapters({}), IsOk());
  EXPECT_THAT(store_->AcquireResident("b"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kHost);
}

TEST_F(AdapterTiersTest, WhatTheEngineKeepsAfterAnUnloadIsCounted) {
  MakeStore(0, 1);
  ASSERT_THAT(Load("a"), IsOk());
  ASSERT_THAT(
      engine_.SwitchAdapters({{.adapter = store_->Acquire("a")->prepared()}}),
      IsOk());
  ASSERT_THAT(Unload("a"), IsOk());
  EXPECT_EQ(store_->stats().device_bytes, kDeviceBytes);
  ASSERT_THAT(engine_.SwitchAdapters({}), IsOk());
  EXPECT_EQ(store_->stats().device_bytes, 0);
}

TEST_F(AdapterTiersTest, WhatIsPinnedIsNotDropped) {
  MakeStore(0, 1);
  ASSERT_THAT(Load("a"), IsOk());
  EXPECT_TRUE(store_->SetPinned("a", true)->pinned);
  ASSERT_THAT(Load("b"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kDevice);
  EXPECT_FALSE(store_->SetPinned("a", false)->pinned);
  EXPECT_THAT(store_->AcquireResident("b"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kHost);
}

TEST_F(AdapterTiersTest, WhatNeverFitsOnTheDeviceIsNotLoaded) {
  AdapterStore::Options options;
  options.max_device_bytes = kDeviceBytes - 1;
  store_ = AdapterStore::Create(&source_, &engine_, options).value();
  const auto refused = Load("a");
  EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterCacheFull,
                                 HasSubstr("--max_adapter_device_bytes")));
  EXPECT_FALSE(GetRetryDelay(refused.status()).has_value());
  EXPECT_THAT(store_->List(), IsEmpty());
  EXPECT_EQ(store_->stats().host_bytes, 0);
  EXPECT_EQ(engine_.live_prepared(), 0);
}

TEST_F(AdapterTiersTest, AnEngineWithoutMemoryIsGivenRoomOnce) {
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  const int calls = engine_.calls(Call::kPrepare);
  engine_.Fail(Call::kPrepare, Error(ErrorReason::kGpuOutOfMemory, "full"));
  engine_.OnCall(Call::kPrepare, [this, calls] {
    if (engine_.calls(Call::kPrepare) == calls + 2) {
      engine_.Fail(Call::kPrepare, absl::OkStatus());
    }
  });
  ASSERT_THAT(Load("c"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kHost);
  EXPECT_EQ(ResidencyOf("b"), Residency::kDevice);
}

TEST_F(AdapterTiersTest, AFailureToPrepareIsNotRemembered) {
  MakeStore(0, 1);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  engine_.Fail(Call::kPrepare, Error(ErrorReason::kInternal, "broken"));
  EXPECT_THAT(store_->AcquireResident("a"), HasReason(ErrorReason::kInternal));
  EXPECT_EQ(store_->Get("a")->in_flight, 0);
  engine_.Fail(Call::kPrepare, absl::OkStatus());
  EXPECT_THAT(store_->AcquireResident("a"), IsOk());
}

TEST_F(AdapterTiersTest, ManyRequestsPrepareOnce) {
  MakeStore(0, 1);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  const int calls = engine_.calls(Call::kPrepare);
  AcquireAtOnce("a", 8);
  EXPECT_EQ(engine_.calls(Call::kPrepare), calls + 1);
}

TEST_F(AdapterTiersTest, FullHostMemoryRefusesWithWhatToUnload) {
  MakeStore(/*on_host=*/2, 0);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  EXPECT_THAT(store_->Acquire("a"), IsOk());
  const auto refused = Load("c");
  EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterCacheFull,
                                 AllOf(HasSubstr("unload one"),
                                       HasSubstr("such as b, a"))));
  EXPECT_THAT(
      GetErrorMetadata(refused.status()),
      AllOf(Contains(Pair("wanted_bytes", std::to_string(FileBytes()))),
            Contains(Pair("limit_bytes", std::to_string(2 * FileBytes())))));
  ASSERT_THAT(Unload("b"), IsOk());
  EXPECT_THAT(Load("c"), IsOk());
  EXPECT_EQ(store_->stats().host_evictions, 0);
}

TEST_F(AdapterTiersTest, FullHostMemoryUnloadsAutoloadedAdaptersOnly) {
  MakeStore(3, 0, /*autoload=*/true);
  ASSERT_THAT(Load("a"), IsOk());
  for (const char* name : {"b", "c", "b"}) {
    ASSERT_THAT(store_->AcquireResident(name), IsOk());
  }
  ASSERT_THAT(store_->AcquireResident("d"), IsOk());
  EXPECT_THAT(store_->Get("a"), IsOk());
  EXPECT_THAT(store_->Get("b"), IsOk());
  EXPECT_THAT(store_->Get("c"), HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_EQ(store_->stats().host_evictions, 1);
  EXPECT_EQ(store_->stats().host_bytes, 3 * FileBytes());
}

TEST_F(AdapterTiersTest, AutoloadedNamesOfOneContentGiveWayTogether) {
  MakeStore(1, 0, /*autoload=*/true);
  Replace("b", FileOf("a"));
  for (const char* name : {"a", "b"}) {
    ASSERT_THAT(store_->AcquireResident(name), IsOk());
  }
  std::optional<AdapterHandle> in_use = store_->Acquire("a").value();
  EXPECT_THAT(store_->AcquireResident("c"),
              HasReason(ErrorReason::kAdapterCacheFull));
  EXPECT_THAT(store_->Get("b"), IsOk());
  EXPECT_EQ(store_->stats().host_evictions, 0);
  in_use.reset();
  EXPECT_THAT(store_->AcquireResident("c"), IsOk());
  for (const char* name : {"a", "b"}) {
    EXPECT_THAT(store_->Get(name), HasReason(ErrorReason::kAdapterNotFound));
  }
  EXPECT_EQ(store_->stats().host_evictions, 2);
  EXPECT_EQ(store_->stats().host_bytes, FileBytes());
}

// It would free nothing.
TEST_F(AdapterTiersTest, AnotherNameOfWhatWasAskedForStays) {
  MakeStore(2, 0, /*autoload=*/true);
  ASSERT_THAT(Load("a"), IsOk());
  Replace("b", FileOf("a"));
  for (const char* name : {"b", "c", "d"}) {
    ASSERT_THAT(store_->AcquireResident(name), IsOk());
  }
  EXPECT_THAT(store_->Get("b"), IsOk());
  EXPECT_THAT(store_->Get("c"), HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_EQ(store_->stats().host_evictions, 1);
}

TEST_F(AdapterTiersTest, WhatTheHostHasNoRoomForIsNotRead) {
  MakeStore(2, 0, /*autoload=*/true);
  ASSERT_THAT(Load("a"), IsOk());
  ASSERT_THAT(store_->AcquireResident("b"), IsOk());
  std::optional<AdapterHandle> in_use = store_->Acquire("b").value();
  const int reads = this->reads();
  EXPECT_THAT(Load("c"), HasReason(ErrorReason::kAdapterCacheFull));
  EXPECT_THAT(store_->AcquireResident("c"),
              HasReason(ErrorReason::kAdapterCacheFull));
  EXPECT_THAT(
      store_->Load({.path = "c.safetensors", .validate_only = true}),
      HasReason(ErrorReason::kAdapterCacheFull, HasSubstr("such as a")));
  EXPECT_EQ(this->reads(), reads);
  in_use.reset();  // now it could give way
  EXPECT_THAT(Load("c"), IsOk());
}

// What is in memory already takes no more of it.
TEST_F(AdapterTiersTest, FullHostMemoryTakesWhatItHas) {
  MakeStore(1, 0);
  ASSERT_THAT(Load("a"), IsOk());
  Replace("a", FileOf("a"));
  EXPECT_TRUE(Load("a")->already_loaded);
  EXPECT_THAT(store_->Load({.path = "a.safetensors", .name = "copy"}), IsOk());
  Replace("b", FileOf("a"));
  EXPECT_TRUE(store_->Load({.path = "b.safetensors", .name = "a"})
                  .value()
                  .already_loaded);
  EXPECT_EQ(store_->stats().host_bytes, FileBytes());
}

TEST_F(AdapterTiersTest, WhatNeverFitsInHostMemoryUnloadsNobody) {
  MakeStore(1, 0, /*autoload=*/true);
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  Replace("b", TinyLoraFile(1000000));
  EXPECT_THAT(
      store_->AcquireResident("b"),
      HasReason(ErrorReason::kAdapterCacheFull,
                AllOf(HasSubstr("raise"), Not(HasSubstr("unload one")))));
  EXPECT_THAT(store_->Get("a"), IsOk());
}

TEST_F(AdapterTiersTest, WhatIsInUseOrPinnedStaysInHostMemory) {
  MakeStore(2, 0, true);
  std::optional<AdapterHandle> in_use = store_->AcquireResident("a").value();
  ASSERT_THAT(store_->AcquireResident("b"), IsOk());
  ASSERT_THAT(store_->SetPinned("b", true), IsOk());
  EXPECT_THAT(
      store_->AcquireResident("c"),
      HasReason(ErrorReason::kAdapterCacheFull, HasSubstr("wait until")));
  in_use.reset();
  EXPECT_THAT(store_->AcquireResident("c"), IsOk());
  EXPECT_THAT(store_->Get("b"), IsOk());
}

TEST_F(AdapterTiersTest, TwoNamesShareOneContent) {
  MakeStore(1, 1);
  ASSERT_THAT(Load("a"), IsOk());
  ASSERT_THAT(store_->Load({.path = "a.safetensors", .name = "copy"}), IsOk());
  EXPECT_EQ(engine_.calls(Call::kPrepare), 1);
  EXPECT_EQ(store_->stats().host_bytes, FileBytes());
  EXPECT_EQ((*Unload("a"))->bytes(), 0);
  EXPECT_THAT(store_->AcquireResident("copy"), IsOk());
  EXPECT_EQ((*Unload("copy"))->bytes(), kDeviceBytes);
  EXPECT_EQ(engine_.live_prepared(), 0);
  EXPECT_EQ(store_->stats().host_bytes, 0);
}

TEST_F(AdapterTiersTest, UnloadingWhatIsInHostMemoryFreesNothingOnTheDevice) {
  MakeStore(0, 1);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  const auto unloaded = Unload("a");
  ASSERT_THAT(unloaded, IsOk());
  EXPECT_EQ((*unloaded)->sha256(), DigestOf("a"));
  EXPECT_EQ((*unloaded)->bytes(), 0);
}

TEST_F(AdapterTiersTest, APinnedAdapterIsNotUnloaded) {
  ASSERT_THAT(Load("a"), IsOk());
  ASSERT_THAT(store_->SetPinned("a", true), IsOk());
  for (const UnloadMode mode :
       {UnloadMode::kWait, UnloadMode::kOnlyIfUnused, UnloadMode::kForce}) {
    EXPECT_THAT(Unload("a", mode),
                HasReason(ErrorReason::kAdapterPinned, HasSubstr("unpin")));
  }
  ASSERT_THAT(store_->SetPinned("a", false), IsOk());
  EXPECT_THAT(Unload("a"), IsOk());
  EXPECT_THAT(store_->SetPinned("a", true),
              HasReason(ErrorReason::kAdapterNotFound));
}

TEST_F(AdapterTiersTest, ALoadMayPin) {
  EXPECT_TRUE(
      store_->Load({.path = "a.safetensors", .pinned = true})->adapter.pinned);
  ASSERT_THAT(Load("b"), IsOk());
  ASSERT_FALSE(store_->Get("b")->pinned);
  EXPECT_TRUE(
      store_->Load({.path = "b.safetensors", .pinned = true})->adapter.pinned);
  ASSERT_THAT(Load("c"), IsOk());
  EXPECT_THAT(
      store_->Load(
          {.path = "c.safetensors", .validate_only = true, .pinned = true}),
      IsOk());
  EXPECT_FALSE(store_->Get("c")->pinned);
}

// Every version that is on its way out, pinned formerly or not; what tells of
// the end is the newest one.
TEST_F(AdapterTiersTest, ForceEndsAllVersionsThatAreLeaving) {
  ASSERT_THAT(store_->Load({.path = "a.safetensors", .pinned = true}), IsOk());
  std::optional<AdapterHandle> first = store_->Acquire("a").value();
  ASSERT_THAT(
      store_->Load(
          {.path = "b.safetensors", .name = "a", .allow_replace = true}),
      IsOk());
  std::optional<AdapterHandle> second = store_->Acquire("a").value();
  ASSERT_THAT(store_->SetPinned("a", false), IsOk());
  std::string cancelled;
  first->OnForcedUnload([&] { cancelled += "1"; });
  second->OnForcedUnload([&] { cancelled += "2"; });
  std::string told;
  store_->Unload("a", UnloadMode::kWait, [&](const auto&) { told += "w"; });
  store_->Unload("a", UnloadMode::kForce, [&](const auto& unloaded) {
    EXPECT_THAT(unloaded, IsOk());
    told += "f";
  });
  EXPECT_EQ(cancelled, "12");
  first.reset();
  EXPECT_EQ(told, "");
  second.reset();
  EXPECT_EQ(told, "wf");
  EXPECT_EQ(engine_.live_prepared(), 0);
}

// Also where it unloads an active one.
TEST_F(AdapterTiersTest, ForceEndsUsersOfReplacedVersions) {
  ASSERT_THAT(store_->Load({.path = "a.safetensors"}), IsOk());
  std::optional<AdapterHandle> first = store_->Acquire("a").value();
  ASSERT_THAT(
      store_->Load(
          {.path = "b.safetensors", .name = "a", .allow_replace = true}),
      IsOk());
  std::optional<AdapterHandle> second = store_->Acquire("a").value();
  std::string cancelled;
  first->OnForcedUnload([&] { cancelled += "1"; });
  second->OnForcedUnload([&] { cancelled += "2"; });
  ASSERT_THAT(store_->SetPinned("a", true), IsOk());
  EXPECT_THAT(Unload("a", UnloadMode::kForce),
              HasReason(ErrorReason::kAdapterPinned));
  EXPECT_EQ(cancelled, "");
  ASSERT_THAT(store_->SetPinned("a", false), IsOk());
  std::string told;
  store_->Unload("a", UnloadMode::kForce, [&](const auto& unloaded) {
    ASSERT_THAT(unloaded, IsOk());
    told += (*unloaded)->sha256();
    EXPECT_EQ((*unloaded)->bytes(), kDeviceBytes);
  });
  EXPECT_EQ(cancelled, "12");
  second.reset();
  EXPECT_EQ(told, "");
  first.reset();
  EXPECT_EQ(told, DigestOf("b"));
  EXPECT_EQ(engine_.live_prepared(), 0);
  EXPECT_THAT(store_->List(), IsEmpty());
}

// What would not fit even then makes nobody give way.
TEST_F(AdapterTiersTest, NothingIsDroppedInVain) {
  MakeStore(/*on_host=*/2, 0, /*autoload=*/true);
  ASSERT_THAT(Load("a"), IsOk());  // does not give way
  ASSERT_THAT(store_->AcquireResident("b"), IsOk());
  Replace("c", LargeFile(/*rank=*/2, FileBytes()));
  EXPECT_THAT(store_->AcquireResident("c"),
              HasReason(ErrorReason::kAdapterCacheFull));
  EXPECT_THAT(store_->Acquire("b"), IsOk());
  EXPECT_EQ(store_->stats().host_evictions, 0);
}

TEST_F(AdapterTiersTest, NothingIsDroppedFromTheDeviceInVain) {
  MakeStore(0, /*on_device=*/2);
  for (const char* name : {"a", "b"}) ASSERT_THAT(Load(name), IsOk());
  const AdapterHandle in_use = store_->Acquire("a").value();
  Replace("c", LargeFile(/*rank=*/5, 0));  // once and a half as large
  EXPECT_THAT(Load("c"), IsOk());          // to host memory
  EXPECT_EQ(ResidencyOf("c"), Residency::kHost);
  EXPECT_EQ(ResidencyOf("b"), Residency::kDevice);
  EXPECT_EQ(store_->stats().device_evictions, 0);
}

TEST_F(AdapterTiersTest, APinGoesOverToTheReplacement) {
  MakeStore(0, 1);
  ASSERT_THAT(Load("a"), IsOk());
  ASSERT_THAT(store_->SetPinned("a", true), IsOk());
  ASSERT_THAT(
      store_->Load(
          {.path = "b.safetensors", .name = "a", .allow_replace = true}),
      IsOk());
  EXPECT_TRUE(store_->Get("a")->pinned);
  ASSERT_THAT(store_->AcquireResident("a"), IsOk());
  ASSERT_THAT(Load("c"), IsOk());
  EXPECT_EQ(ResidencyOf("a"), Residency::kDevice);
}

TEST_F(AdapterTiersTest, AForcedUnloadAsksItsUsersToEnd) {
  ASSERT_THAT(Load("a"), IsOk());
  std::optional<AdapterHandle> first = store_->Acquire("a").value();
  std::optional<AdapterHandle> second = store_->Acquire("a").value();
  std::optional<AdapterHandle> ended = store_->Acquire("a").value();
  int cancelled = 0;
  first->OnForcedUnload([&cancelled] { ++cancelled; });
  ended->OnForcedUnload([&cancelled] { cancelled += 100; });
  ended.reset();
  bool done = false;
  store_->Unload("a", UnloadMode::kForce,
                 [&done](const auto& result) { done = result.ok(); });
  EXPECT_EQ(cancelled, 1);
  second->OnForcedUnload([&cancelled] { cancelled += 10; });
  EXPECT_EQ(cancelled, 11);
  first.reset();
  EXPECT_FALSE(done);
  second.reset();
  EXPECT_TRUE(done);
}

// Who has waited long enough may force what he waits for.
TEST_F(AdapterTiersTest, AForcedUnloadHurriesOneThatWaits) {
  ASSERT_THAT(Load("a"), IsOk());
  std::optional<AdapterHandle> handle = store_->Acquire("a").value();
  bool cancelled = false;
  handle->OnForcedUnload([&cancelled] { cancelled = true; });
  std::vector<int> done;
  const auto tell = [&done](int number) {
    return [&done, number](const auto& result) {
      EXPECT_THAT(result.status(), IsOk());
      done.push_back(number);
    };
  };
  store_->Unload("a", UnloadMode::kWait, tell(1));
  EXPECT_FALSE(cancelled);
  store_->Unload("a", UnloadMode::kForce, tell(2));
  EXPECT_TRUE(cancelled);
  EXPECT_TRUE(done.empty());
  handle.reset();
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
  store_->Unload("a", UnloadMode::kForce, [](const auto& result) {
    EXPECT_THAT(result.status(), HasReason(ErrorReason::kAdapterNotFound));
  });
}

TEST_F(AdapterTiersTest, AnUnloadThatWaitsCancelsNobody) {
  ASSERT_THAT(Load("a"), IsOk());
  std::optional<AdapterHandle> handle = store_->Acquire("a").value();
  bool cancelled = false;
  handle->OnForcedUnload([&cancelled] { cancelled = true; });
  store_->Unload("a", UnloadMode::kWait, [](const auto&) {});
  handle.reset();
  EXPECT_FALSE(cancelled);
}

}  // namespace
}  // namespace graft
