#include "server/adapters/adapter_store.h"

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using Call = FakeEngine::Call;

std::string Digest(const std::string& bytes) {
  return Sha256Hex(bytes.data(), bytes.size());
}

class AdapterStoreTest : public testing::Test {
 protected:
  AdapterStoreTest()
      : source_({.directory = dir_.path()}),
        store_(AdapterStore::Create(&source_, &engine_).value()) {
    dir_.Write("ink.safetensors", TinyLoraFile(1));
    dir_.Write("pen.safetensors", TinyLoraFile(2));
  }

  absl::StatusOr<AdapterStore::LoadResult> Load(
      AdapterStore::LoadRequest request) {
    return store_->Load(request);
  }
  absl::StatusOr<AdapterStore::LoadResult> LoadInk() {
    return Load({.path = "ink.safetensors"});
  }
  // Other content under the name "ink".
  AdapterStore::LoadRequest PenAsInk() {
    return {.path = "pen.safetensors", .name = "ink"};
  }

  // The outcome of an unload that does not have to wait.
  absl::StatusOr<PreparedAdapterPtr> UnloadNow(
      const std::string& name, UnloadMode mode = UnloadMode::kWait) {
    std::optional<absl::StatusOr<PreparedAdapterPtr>> outcome;
    store_->Unload(name, mode,
                   [&outcome](auto result) { outcome = std::move(result); });
    if (outcome.has_value()) return *std::move(outcome);
    ADD_FAILURE() << "the unload of " << name << " waits";
    return absl::UnknownError("waits");
  }

  AdapterState StateOf(const std::string& name) {
    return store_->Get(name).value().state;
  }

  const std::string ink_digest_ = Digest(TinyLoraFile(1));
  const std::string pen_digest_ = Digest(TinyLoraFile(2));
  TempDir dir_;
  FakeEngine engine_;
  AdapterSource source_;
  std::unique_ptr<AdapterStore> store_;
};

TEST_F(AdapterStoreTest, LoadTellsWhatWasLoaded) {
  const auto loaded = LoadInk();
  ASSERT_THAT(loaded, IsOk());
  EXPECT_FALSE(loaded->already_loaded);
  const AdapterInfo& info = loaded->adapter;
  EXPECT_EQ(info.name, "ink");
  EXPECT_EQ(info.state, AdapterState::kActive);
  EXPECT_EQ(info.path, "ink.safetensors");
  EXPECT_EQ(info.sha256, ink_digest_);
  EXPECT_EQ(info.size_bytes, static_cast<int64_t>(TinyLoraFile(1).size()));
  EXPECT_EQ(info.device_bytes, 4 * (2 * 8 + 8 * 2 + 2 * 8 + 16 * 2));
  EXPECT_EQ(info.report.unet_targets, 1);
  EXPECT_NE(info.load_time, absl::InfinitePast());
  EXPECT_EQ(info.last_use_time, absl::InfinitePast());
  EXPECT_EQ(store_->Get("ink")->sha256, ink_digest_);
}

TEST_F(AdapterStoreTest, TheFileIsNotNeededAfterTheLoad) {
  ASSERT_THAT(LoadInk(), IsOk());
  dir_.Write("ink.safetensors", "");
  EXPECT_THAT(store_->Acquire("ink"), IsOk());
}

TEST_F(AdapterStoreTest, TheSameContentAgainIsAlreadyLoaded) {
  ASSERT_THAT(LoadInk(), IsOk());
  const auto again = LoadInk();
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->already_loaded);
  EXPECT_EQ(again->adapter.sha256, ink_digest_);
  EXPECT_EQ(engine_.calls(Call::kPrepare), 1);
}

TEST_F(AdapterStoreTest, OneContentMayHaveTwoNames) {
  ASSERT_THAT(LoadInk(), IsOk());
  const auto other = Load({.path = "ink.safetensors", .name = "ink2"});
  ASSERT_THAT(other, IsOk());
  EXPECT_FALSE(other->already_loaded);
  EXPECT_EQ(store_->List().size(), 2u);
}

TEST_F(AdapterStoreTest, OtherContentIsAConflict) {
  ASSERT_THAT(LoadInk(), IsOk());
  const auto conflict = Load(PenAsInk());
  EXPECT_THAT(conflict,
              HasReason(ErrorReason::kAdapterConflict, HasSubstr(ink_digest_)));
  EXPECT_THAT(GetErrorMetadata(conflict.status()),
              AllOf(Contains(Pair("resource_type", "Adapter")),
                    Contains(Pair("resource_name", "ink"))));
  EXPECT_EQ(store_->Get("ink")->sha256, ink_digest_);
}

TEST_F(AdapterStoreTest, AChangedFileIsNotTheLoadedAdapter) {
  ASSERT_THAT(LoadInk(), IsOk());
  dir_.Write("ink.safetensors", TinyLoraFile(3));
  EXPECT_THAT(LoadInk(), HasReason(ErrorReason::kAdapterConflict));
}

TEST_F(AdapterStoreTest, ReplacingLeavesHandlesWithTheFormerContent) {
  ASSERT_THAT(LoadInk(), IsOk());
  std::optional<AdapterHandle> former = store_->Acquire("ink").value();
  auto request = PenAsInk();
  request.allow_replace = true;
  ASSERT_THAT(Load(request), IsOk());
  EXPECT_EQ(former->sha256(), ink_digest_);
  EXPECT_EQ(former->prepared()->sha256(), ink_digest_);
  EXPECT_EQ(store_->Acquire("ink")->sha256(), pen_digest_);
  EXPECT_EQ(store_->List().size(), 1u);
  EXPECT_EQ(engine_.live_prepared(), 2);
  former.reset();
  EXPECT_EQ(engine_.live_prepared(), 1);
  EXPECT_EQ(store_->Get("ink")->sha256, pen_digest_);
}

TEST_F(AdapterStoreTest, ReplacingWhatNobodyUsesFreesItAtOnce) {
  ASSERT_THAT(LoadInk(), IsOk());
  auto request = PenAsInk();
  request.allow_replace = true;
  ASSERT_THAT(Load(request), IsOk());
  EXPECT_EQ(engine_.live_prepared(), 1);
}

TEST_F(AdapterStoreTest, ValidateOnlyChangesNothing) {
  const auto checked = Load({.path = "ink.safetensors", .validate_only = true});
  ASSERT_THAT(checked, IsOk());
  EXPECT_EQ(checked->adapter.sha256, ink_digest_);
  EXPECT_EQ(checked->adapter.report.unet_targets, 1);
  EXPECT_THAT(store_->List(), IsEmpty());
  EXPECT_EQ(engine_.calls(Call::kPrepare), 0);
}

TEST_F(AdapterStoreTest, ValidateOnlyFindsConflicts) {
  ASSERT_THAT(LoadInk(), IsOk());
  auto request = PenAsInk();
  request.validate_only = true;
  EXPECT_THAT(Load(request), HasReason(ErrorReason::kAdapterConflict));
}

TEST_F(AdapterStoreTest, TheExpectedDigestIsChecked) {
  EXPECT_THAT(Load({.path = "ink.safetensors", .expected_sha256 = ink_digest_}),
              IsOk());
  EXPECT_THAT(
      Load({.path = "pen.safetensors", .expected_sha256 = ink_digest_}),
      HasReason(ErrorReason::kAdapterVersionMismatch, HasSubstr(pen_digest_)));
  EXPECT_THAT(Load({.path = "pen.safetensors", .expected_sha256 = "abc"}),
              HasReason(ErrorReason::kInvalidField, HasSubstr("sha256")));
  EXPECT_EQ(store_->List().size(), 1u);
}

TEST_F(AdapterStoreTest, AFailedLoadLeavesNoTrace) {
  dir_.Write("bad.safetensors", "bad");
  EXPECT_THAT(Load({.path = "bad.safetensors"}),
              HasReason(ErrorReason::kAdapterCorrupt));
  EXPECT_THAT(Load({.path = "none.safetensors"}),
              HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_THAT(Load({.path = "../x.safetensors"}),
              HasReason(ErrorReason::kPathNotAllowed, HasSubstr("path")));
  EXPECT_THAT(Load({.path = "a b.safetensors"}),
              HasReason(ErrorReason::kInvalidField, HasSubstr("name")));
  engine_.Fail(Call::kPrepare, Error(ErrorReason::kGpuOutOfMemory, "full"));
  EXPECT_THAT(LoadInk(), HasReason(ErrorReason::kGpuOutOfMemory));
  EXPECT_THAT(store_->List(), IsEmpty());
  engine_.Fail(Call::kPrepare, absl::OkStatus());
  EXPECT_THAT(LoadInk(), IsOk());
}

TEST_F(AdapterStoreTest, AFailedReplacementLeavesTheFormerActive) {
  ASSERT_THAT(LoadInk(), IsOk());
  dir_.Write("bad.safetensors", "bad");
  EXPECT_THAT(
      Load({.path = "bad.safetensors", .name = "ink", .allow_replace = true}),
      HasReason(ErrorReason::kAdapterCorrupt));
  EXPECT_EQ(store_->Acquire("ink")->sha256(), ink_digest_);
}

// The same bytes change other modules then: nobody may take one for the other.
TEST_F(AdapterStoreTest, AFolderIsAnotherAdapterForEachComponent) {
  const std::string config =
      R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none"})";
  AdapterFileBuilder weights;
  for (const char* module : {"down_blocks.0.attentions.0.proj_in",
                             "text_model.encoder.layers.0.self_attn.q_proj"}) {
    const std::string key = std::string("base_model.model.") + module;
    weights.Add(key + ".lora_A.weight", TensorDtype::kF32, {2, 8})
        .Add(key + ".lora_B.weight", TensorDtype::kF32, {8, 2});
  }
  dir_.Write("both/adapter_config.json", config);
  dir_.Write("both/adapter_model.safetensors", weights.Build());
  const auto load = [this](const char* name, const char* component) {
    return Load({.path = "both",
                 .name = name,
                 .component = component,
                 .allow_partial = true,
                 .allow_replace = true});
  };

  const std::string digest = Digest(Digest(config) + Digest(weights.Build()));
  const auto unet = load("unet", "unet");
  ASSERT_THAT(unet, IsOk());
  EXPECT_EQ(unet->adapter.sha256, digest);
  EXPECT_EQ(load("default", "")->adapter.sha256, digest);
  const auto text = load("text", "text_encoder");
  ASSERT_THAT(text, IsOk());
  EXPECT_EQ(text->adapter.sha256, Digest(digest + "text_encoder"));
  EXPECT_EQ(unet->adapter.report.text_encoder_targets, 0);
  EXPECT_EQ(text->adapter.report.text_encoder_targets, 1);
  // Under a name that has the other: not loaded already.
  const auto other = load("unet", "text_encoder");
  ASSERT_THAT(other, IsOk());
  EXPECT_FALSE(other->already_loaded);
  EXPECT_EQ(store_->Acquire("unet")->sha256(), text->adapter.sha256);
}

TEST_F(AdapterStoreTest, WhatWasLoadedInPartIsNotAllForAStrictCaller) {
  dir_.Write(
      "part.safetensors",
      AdapterFileBuilder()
          .AddKohyaPair("lora_te_encoder_layers_0_mlp_fc1", {2, 8}, {16, 2})
          .AddKohyaPair("lora_unet_nowhere", {2, 8}, {8, 2})
          .Build());
  const AdapterStore::LoadRequest partial = {.path = "part.safetensors",
                                             .allow_partial = true};
  ASSERT_THAT(Load(partial), IsOk());
  EXPECT_EQ(store_->Get("part")->report.keys.unmatched, 3);
  EXPECT_TRUE(Load(partial)->already_loaded);
  EXPECT_THAT(Load({.path = "part.safetensors"}),
              HasReason(ErrorReason::kAdapterKeysUnmatched));
  EXPECT_THAT(store_->Acquire("part"), IsOk());
}

TEST_F(AdapterStoreTest, UsesAreCounted) {
  ASSERT_THAT(LoadInk(), IsOk());
  {
    AdapterHandle first = store_->Acquire("ink").value();
    AdapterHandle second = store_->Acquire("ink", ink_digest_).value();
    AdapterHandle looked = store_->Acquire("ink").value();
    looked = AdapterHandle();  // for a request that came to nothing
    first.CountUse();
    second.CountUse();
    EXPECT_EQ(first.name(), "ink");
    EXPECT_EQ(store_->Get("ink")->in_flight, 2);
  }
  const AdapterInfo info = store_->Get("ink").value();
  EXPECT_EQ(info.in_flight, 0);
  EXPECT_EQ(info.use_count, 2);
  EXPECT_GE(info.last_use_time, info.load_time);
}

TEST_F(AdapterStoreTest, AcquireWantsTheRightNameAndContent) {
  ASSERT_THAT(LoadInk(), IsOk());
  const auto unknown = store_->Acquire("no\nname");
  EXPECT_THAT(unknown, HasReason(ErrorReason::kAdapterNotFound,
                                 HasSubstr("\"no\\x0aname\"")));
  EXPECT_THAT(GetErrorMetadata(unknown.status()),
              Contains(Pair("resource_type", "Adapter")));
  EXPECT_THAT(store_->Acquire("ink", pen_digest_),
              HasReason(ErrorReason::kAdapterVersionMismatch));
  EXPECT_EQ(store_->Get("ink")->in_flight, 0);
}

TEST_F(AdapterStoreTest, MovedHandlesPinOnce) {
  ASSERT_THAT(LoadInk(), IsOk());
  AdapterHandle first = store_->Acquire("ink").value();
  AdapterHandle second = std::move(first);
  EXPECT_FALSE(first);
  EXPECT_TRUE(second);
  EXPECT_EQ(store_->Get("ink")->in_flight, 1);
  second = store_->Acquire("ink").value();
  EXPECT_EQ(store_->Get("ink")->in_flight, 1);
  second = AdapterHandle();
  EXPECT_EQ(store_->Get("ink")->in_flight, 0);
}

TEST_F(AdapterStoreTest, UnloadHandsTheMemoryOver) {
  ASSERT_THAT(LoadInk(), IsOk());
  auto unloaded = UnloadNow("ink");
  ASSERT_THAT(unloaded, IsOk());
  EXPECT_EQ((*unloaded)->sha256(), ink_digest_);
  EXPECT_EQ(unloaded->use_count(), 1);
  unloaded->reset();
  EXPECT_EQ(engine_.live_prepared(), 0);
  EXPECT_THAT(store_->List(), IsEmpty());
  EXPECT_THAT(store_->Get("ink"), HasReason(ErrorReason::kAdapterNotFound));
}

TEST_F(AdapterStoreTest, UnloadWaitsForTheLastHandle) {
  ASSERT_THAT(LoadInk(), IsOk());
  std::optional<AdapterHandle> first = store_->Acquire("ink").value();
  std::optional<AdapterHandle> second = store_->Acquire("ink").value();
  bool done = false;
  store_->Unload("ink", UnloadMode::kWait,
                 [&](absl::StatusOr<PreparedAdapterPtr> result) {
                   done = true;
                   EXPECT_THAT(result, IsOk());
                   EXPECT_EQ(result->use_count(), 1);
                   // No lock is held: the store may be called from here.
                   EXPECT_THAT(store_->List(), IsEmpty());
                 });
  EXPECT_EQ(StateOf("ink"), AdapterState::kUnloading);
  EXPECT_THAT(store_->Acquire("ink"), HasReason(ErrorReason::kAdapterNotFound));
  first.reset();
  EXPECT_FALSE(done);
  second.reset();
  EXPECT_TRUE(done);
}

TEST_F(AdapterStoreTest, UnloadCanRefuseToWait) {
  ASSERT_THAT(LoadInk(), IsOk());
  const AdapterHandle handle = store_->Acquire("ink").value();
  const auto refused = UnloadNow("ink", UnloadMode::kOnlyIfUnused);
  EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterInUse));
  EXPECT_THAT(GetErrorMetadata(refused.status()),
              Contains(Pair("in_flight", "1")));
  EXPECT_EQ(StateOf("ink"), AdapterState::kActive);
}

TEST_F(AdapterStoreTest, UnloadOfAnUnknownOrUnloadingNameIsNotFound) {
  EXPECT_THAT(UnloadNow("ink"), HasReason(ErrorReason::kAdapterNotFound));
  ASSERT_THAT(LoadInk(), IsOk());
  const AdapterHandle handle = store_->Acquire("ink").value();
  store_->Unload("ink", UnloadMode::kWait,
                 [](absl::StatusOr<PreparedAdapterPtr>) {});
  EXPECT_THAT(UnloadNow("ink"), HasReason(ErrorReason::kAdapterNotFound));
}

// As many as a stack would not hold one above the other; the first gets what
// there is.
TEST_F(AdapterStoreTest, AnyNumberMayForceAnUnloadThatWaits) {
  constexpr int kCalls = 200'000;
  ASSERT_THAT(LoadInk(), IsOk());
  std::optional<AdapterHandle> handle = store_->Acquire("ink").value();
  int told = 0;
  for (int i = 0; i < kCalls; ++i) {
    store_->Unload("ink", UnloadMode::kForce,
                   [&](const absl::StatusOr<PreparedAdapterPtr>& prepared) {
                     ASSERT_THAT(prepared, IsOk());
                     EXPECT_EQ((*prepared)->sha256(), ink_digest_);
                     EXPECT_EQ((*prepared)->bytes() > 0, told == 0);
                     ++told;
                   });
  }
  EXPECT_EQ(told, 0);
  handle.reset();
  EXPECT_EQ(told, kCalls);
  EXPECT_TRUE(store_->List().empty());
}

TEST_F(AdapterStoreTest, ANameThatIsBeingUnloadedIsFree) {
  ASSERT_THAT(LoadInk(), IsOk());
  std::optional<AdapterHandle> handle = store_->Acquire("ink").value();
  bool done = false;
  store_->Unload("ink", UnloadMode::kWait,
                 [&done](absl::StatusOr<PreparedAdapterPtr>) { done = true; });
  ASSERT_THAT(Load(PenAsInk()), IsOk());
  EXPECT_FALSE(done);
  EXPECT_EQ(store_->Get("ink")->sha256, pen_digest_);
  EXPECT_EQ(handle->sha256(), ink_digest_);
  handle.reset();
  EXPECT_TRUE(done);
  EXPECT_EQ(store_->Acquire("ink")->sha256(), pen_digest_);
}

TEST_F(AdapterStoreTest, HandlesMayOutliveTheStore) {
  ASSERT_THAT(LoadInk(), IsOk());
  std::optional<AdapterHandle> handle = store_->Acquire("ink").value();
  bool done = false;
  store_->Unload("ink", UnloadMode::kWait,
                 [&done](absl::StatusOr<PreparedAdapterPtr>) { done = true; });
  store_.reset();
  EXPECT_EQ(handle->sha256(), ink_digest_);
  handle.reset();
  EXPECT_TRUE(done);
  EXPECT_EQ(engine_.live_prepared(), 0);
}

TEST_F(AdapterStoreTest, ListIsSortedByName) {
  for (const char* name : {"b", "a", "B", "a-b", "a1"}) {
    ASSERT_THAT(Load({.path = "ink.safetensors", .name = name}), IsOk());
  }
  std::vector<std::string> names;
  for (const AdapterInfo& info : store_->List()) names.push_back(info.name);
  EXPECT_THAT(names, ElementsAre("B", "a", "a-b", "a1", "b"));
}

TEST_F(AdapterStoreTest, ALoadingAdapterIsListedAndCannotBeUsed) {
  engine_.Block(Call::kPrepare);
  std::thread loader([this] { EXPECT_THAT(LoadInk(), IsOk()); });
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kPrepare));
  // The engine runs without the store's lock.
  EXPECT_EQ(StateOf("ink"), AdapterState::kLoading);
  EXPECT_EQ(store_->Get("ink")->path, "ink.safetensors");
  EXPECT_THAT(store_->Acquire("ink"), HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_THAT(UnloadNow("ink"), HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_THAT(Load({.path = "pen.safetensors", .validate_only = true}), IsOk());
  engine_.Unblock(Call::kPrepare);
  loader.join();
  EXPECT_EQ(StateOf("ink"), AdapterState::kActive);
}

TEST_F(AdapterStoreTest, AnActiveAdapterServesWhileItsReplacementLoads) {
  ASSERT_THAT(LoadInk(), IsOk());
  engine_.Block(Call::kPrepare);
  std::thread loader([this] {
    auto request = PenAsInk();
    request.allow_replace = true;
    EXPECT_THAT(Load(request), IsOk());
  });
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kPrepare));
  EXPECT_EQ(StateOf("ink"), AdapterState::kActive);
  EXPECT_EQ(store_->Acquire("ink")->sha256(), ink_digest_);
  engine_.Unblock(Call::kPrepare);
  loader.join();
  EXPECT_EQ(store_->Acquire("ink")->sha256(), pen_digest_);
}

TEST_F(AdapterStoreTest, LoadsOfOneNameAtOnceAgree) {
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  std::atomic<int> loaded{0};
  std::atomic<int> already{0};
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      const auto result = LoadInk();
      ASSERT_THAT(result, IsOk());
      ++(result->already_loaded ? already : loaded);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(loaded, 1);
  EXPECT_EQ(already, kThreads - 1);
  EXPECT_EQ(engine_.calls(Call::kPrepare), 1);
}

// What one thread does to names that other threads use at the same time.
class Contender {
 public:
  Contender(AdapterStore* store, int seed, std::string ink, std::string pen)
      : store_(store),
        seed_(seed),
        ink_(std::move(ink)),
        pen_(std::move(pen)) {}

  void Run(int rounds) {
    for (int round = 0; round < rounds; ++round) {
      const std::string name = (seed_ + round) % 4 == 0 ? "b" : "a";
      switch ((seed_ * 7 + round) % 5) {
        case 0:
          Load({.path = "ink.safetensors", .name = name});
          break;
        case 1:
          Load(
              {.path = "pen.safetensors", .name = name, .allow_replace = true});
          break;
        case 2:
        case 3:
          Use(name);
          break;
        default:
          Unload(name);
      }
    }
  }

 private:
  void Load(const AdapterStore::LoadRequest& request) {
    const auto result = store_->Load(request);
    if (!result.ok()) {
      EXPECT_THAT(result, HasReason(ErrorReason::kAdapterConflict));
    }
  }

  void Use(const std::string& name) {
    const auto handle = store_->Acquire(name);
    if (!handle.ok()) {
      EXPECT_THAT(handle, HasReason(ErrorReason::kAdapterNotFound));
      return;
    }
    const std::string digest = handle->sha256();
    EXPECT_TRUE(digest == ink_ || digest == pen_);
    for (const AdapterInfo& info : store_->List()) {
      EXPECT_NE(info.state, AdapterState::kGone);
    }
    EXPECT_EQ(handle->prepared()->sha256(), digest);
  }

  void Unload(const std::string& name) {
    // Shared: the last handle of another thread may end the unload.
    const auto done = std::make_shared<absl::Notification>();
    store_->Unload(name, UnloadMode::kWait,
                   [done](const absl::StatusOr<PreparedAdapterPtr>& result) {
                     if (!result.ok()) {
                       EXPECT_THAT(result,
                                   HasReason(ErrorReason::kAdapterNotFound));
                     }
                     done->Notify();
                   });
    EXPECT_TRUE(done->WaitForNotificationWithTimeout(absl::Seconds(60)));
  }

  AdapterStore* const store_;
  const int seed_;
  const std::string ink_;
  const std::string pen_;
};

TEST_F(AdapterStoreTest, ManyThreadsLoadUseAndUnloadTheSameNames) {
  constexpr int kThreads = 32;
  constexpr int kRounds = 128;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([this, i] {
      Contender(store_.get(), i, ink_digest_, pen_digest_).Run(kRounds);
    });
  }
  for (std::thread& thread : threads) thread.join();
  // All that is left is what the list shows.
  std::set<std::string> contents;
  for (const AdapterInfo& info : store_->List()) contents.insert(info.sha256);
  EXPECT_EQ(engine_.live_prepared(), static_cast<int>(contents.size()));
  for (const AdapterInfo& info : store_->List()) {
    EXPECT_EQ(info.state, AdapterState::kActive);
    EXPECT_EQ(info.in_flight, 0);
    EXPECT_THAT(UnloadNow(info.name), IsOk());
  }
  EXPECT_EQ(engine_.live_prepared(), 0);
}

TEST(AdapterStoreCreateTest, AmbiguousModulesAreAnError) {
  const FakeEngine engine({BaseFamily::kOther,
                           2,
                           {{"unet.a.b", ModuleKind::kLinear, {4, 4}, true},
                            {"unet.a_b", ModuleKind::kLinear, {4, 4}, true}}});
  const AdapterSource source({});
  EXPECT_THAT(AdapterStore::Create(&source, &engine),
              HasReason(ErrorReason::kInternal));
}

}  // namespace
}  // namespace graft
