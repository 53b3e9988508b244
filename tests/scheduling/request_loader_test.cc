#include "server/scheduling/request_loader.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/executor.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(TenantLineTest, TenantsTakeTurns) {
  TenantLine<int> line;
  for (const int item : {1, 2, 3}) line.Push("a", item);
  line.Push("b", 4);
  line.Push("c", 5);
  std::vector<int> order;
  while (!line.empty()) order.push_back(line.Pop());
  EXPECT_THAT(order, ElementsAre(1, 4, 5, 2, 3));
}

TEST(TenantLineTest, WhatIsTakenOutLeavesTheOthersInOrder) {
  TenantLine<int> line;
  for (const int item : {1, 2, 3}) line.Push("a", item);
  line.Push("b", 4);
  const auto is_even = [](int item) { return item % 2 == 0; };
  EXPECT_THAT(line.TakeIf(is_even), ElementsAre(2, 4));
  EXPECT_EQ(line.Pop(), 1);
  EXPECT_EQ(line.Pop(), 3);
  EXPECT_TRUE(line.empty());
}

struct Submitted {
  absl::Status accepted;
  std::shared_ptr<RecordingObserver> observer =
      std::make_shared<RecordingObserver>();
  CancelFlag cancelled = std::make_shared<std::atomic<bool>>(false);

  absl::Status Wait() const { return observer->Wait(); }
};

// A loader, a scheduler and a store whose device has room for `room` adapters
// of TinyLoraFile; files a to d are in its directory.
class RequestLoaderTest : public testing::Test {
 protected:
  explicit RequestLoaderTest(int room = 1, int max_waiting = 8) {
    int variant = 0;
    for (const char* const name : {"a", "b", "c", "d"}) {
      directory_.Write(absl::StrCat(name, ".safetensors"),
                       TinyLoraFile(variant++));
    }
    AdapterStore::Options options;
    options.max_device_bytes = room * BytesOfOne();
    options.autoload = true;
    store_ = *AdapterStore::Create(&source_, &engine_, options);
    scheduler_ = std::make_unique<RequestScheduler>(
        &engine_, &encoder_, &clock_, RequestScheduler::Options());
    loader_ = std::make_unique<RequestLoader>(
        store_.get(), scheduler_.get(), &executor_, &clock_,
        RequestLoader::Options{.autoload = true, .max_waiting = max_waiting});
  }

  ~RequestLoaderTest() override { loader_.reset(); }

  Submitted Submit(const std::vector<std::string>& names, uint64_t seed = 1,
                   const std::string& tenant = "default") {
    Submitted submitted;
    auto task = std::make_unique<GenerationTask>();
    task->params.prompt = "a star";
    task->params.width = 16;
    task->params.height = 8;
    task->params.steps = 1;
    task->params.seed = seed;
    task->tenant = tenant;
    task->observer = submitted.observer;
    task->cancelled = submitted.cancelled;
    std::vector<AdapterChoice> choices;
    for (const std::string& name : names) choices.push_back({.name = name});
    submitted.accepted = loader_->Submit(std::move(task), std::move(choices));
    return submitted;
  }

  // Submits a request and waits until the device makes its first step.
  Submitted SubmitAndBlock(const std::vector<std::string>& names) {
    engine_.Block(Call::kStep);
    Submitted submitted = Submit(names);
    EXPECT_TRUE(engine_.WaitUntilBlocked(Call::kStep));
    return submitted;
  }

  // Waits until so many wait for room, as nothing else needs time here.
  void AwaitWaiting(int requests) {
    while (loader_->load().requests != requests ||
           !executor_.WaitUntilIdle({})) {
      std::this_thread::yield();
    }
  }

  std::vector<uint64_t> BegunSeeds() {
    std::vector<uint64_t> seeds;
    for (const GenerationParams& params : engine_.begun()) {
      seeds.push_back(params.seed);
    }
    return seeds;
  }

  FakeEngine engine_;
  FakeClock clock_;
  TempDir directory_;
  const AdapterSource source_{{.directory = directory_.path()}};
  ThreadPoolExecutor encoder_{1};
  std::unique_ptr<AdapterStore> store_;
  std::unique_ptr<RequestScheduler> scheduler_;
  ThreadPoolExecutor executor_{1};
  std::unique_ptr<RequestLoader> loader_;

 private:
  int64_t BytesOfOne() {
    const auto store = *AdapterStore::Create(&source_, &engine_);
    return store->Load({.path = "a.safetensors"})->adapter.device_bytes;
  }
};

TEST_F(RequestLoaderTest, LoadsWhatIsNotThere) {
  EXPECT_THAT(Submit({"a"}).Wait(), IsOk());
  EXPECT_THAT(Submit({"a"}).Wait(), IsOk());
  EXPECT_THAT(Submit({}).Wait(), IsOk());
  EXPECT_EQ(store_->Get("a")->use_count, 2);
  EXPECT_THAT(Submit({"nobody"}).Wait(),
              HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_EQ(loader_->load().requests, 0);
}

TEST_F(RequestLoaderTest, TellsWhatWaits) {
  const Submitted first = SubmitAndBlock({"a"});
  const Submitted second = Submit({"b"});
  AwaitWaiting(1);
  EXPECT_THAT(loader_->load().adapters, ElementsAre("b"));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(second.Wait(), IsOk());
  EXPECT_EQ(store_->Get("b")->use_count, 1);  // however often it has looked
}

// None of the two that wait is alone, and only what was merged last stands in
// their way.
TEST_F(RequestLoaderTest, ManyWaitForTheRoomOfOne) {
  const Submitted first = SubmitAndBlock({"a"});
  const Submitted second = Submit({"b"});
  const Submitted third = Submit({"c"});
  AwaitWaiting(2);
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_THAT(second.Wait(), IsOk());
  EXPECT_THAT(third.Wait(), IsOk());
}

TEST_F(RequestLoaderTest, WaitsForASwitchToTheBaseHoweverLongItTakes) {
  EXPECT_THAT(Submit({"a"}).Wait(), IsOk());
  engine_.Block(Call::kSwitch);
  const Submitted second = Submit({"b"});
  ASSERT_TRUE(engine_.WaitUntilBlocked(Call::kSwitch));
  clock_.Advance(absl::Seconds(20));
  AwaitWaiting(1);
  engine_.Unblock(Call::kSwitch);
  EXPECT_THAT(second.Wait(), IsOk());
}

TEST_F(RequestLoaderTest, WhatCanNeverFitIsToldAtOnce) {
  const Submitted first = SubmitAndBlock({"a"});
  ASSERT_THAT(store_->Load({.path = "b.safetensors"}), IsOk());
  ASSERT_THAT(store_->Load({.path = "c.safetensors"}), IsOk());
  const absl::Status status = Submit({"b", "c"}).Wait();
  EXPECT_THAT(status, HasReason(ErrorReason::kAdapterCacheFull,
                                HasSubstr("--max_adapter_device_bytes")));
  EXPECT_FALSE(GetRetryDelay(status).has_value());
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.Wait(), IsOk());
}

TEST_F(RequestLoaderTest, NobodyWaitsForAPin) {
  EXPECT_THAT(Submit({"a"}).Wait(), IsOk());
  ASSERT_THAT(store_->SetPinned("a", true), IsOk());
  const absl::Status status = Submit({"b"}).Wait();
  EXPECT_THAT(status,
              HasReason(ErrorReason::kAdapterCacheFull, HasSubstr("pinned")));
  EXPECT_FALSE(GetRetryDelay(status).has_value());
}

TEST_F(RequestLoaderTest, PatienceEnds) {
  const Submitted first = SubmitAndBlock({"a"});
  const Submitted second = Submit({"b"});
  const Submitted third = Submit({"c"});
  AwaitWaiting(2);
  clock_.Advance(absl::Seconds(29));
  const Submitted fourth = Submit({"d"});
  AwaitWaiting(3);
  clock_.Advance(absl::Seconds(2));
  for (const Submitted* const request : {&second, &third}) {
    const absl::Status status = request->Wait();
    EXPECT_THAT(status, HasReason(ErrorReason::kAdapterCacheFull));
    EXPECT_TRUE(GetRetryDelay(status).has_value());
  }
  AwaitWaiting(1);
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.Wait(), IsOk());
  EXPECT_THAT(fourth.Wait(), IsOk());
}

TEST_F(RequestLoaderTest, WhoWaitsCanBeCancelledAndDrained) {
  const Submitted first = SubmitAndBlock({"a"});
  const Submitted second = Submit({"b"});
  const Submitted third = Submit({"c"});
  const Submitted fourth = Submit({"d"});
  AwaitWaiting(3);
  second.cancelled->store(true);
  third.cancelled->store(true);
  EXPECT_THAT(second.Wait(), HasReason(ErrorReason::kClientCancelled));
  EXPECT_THAT(third.Wait(), HasReason(ErrorReason::kClientCancelled));
  scheduler_->StopAdmitting();
  const absl::Status status = fourth.Wait();
  EXPECT_THAT(status, HasReason(ErrorReason::kDraining));
  EXPECT_TRUE(GetRetryDelay(status).has_value());
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.Wait(), IsOk());
}

TEST_F(RequestLoaderTest, TenantsTakeTurnsForRoom) {
  const Submitted first = SubmitAndBlock({"a"});
  std::vector<Submitted> others;
  others.push_back(Submit({"b"}, 11, "many"));
  others.push_back(Submit({"c"}, 12, "many"));
  others.push_back(Submit({"d"}, 13, "many"));
  others.push_back(Submit({"b"}, 21, "one"));
  AwaitWaiting(4);
  engine_.Unblock(Call::kStep);
  for (const Submitted& other : others) EXPECT_THAT(other.Wait(), IsOk());
  EXPECT_THAT(BegunSeeds(), ElementsAre(1, 11, 21, 12, 13));
}

class ShortLineTest : public RequestLoaderTest {
 protected:
  ShortLineTest() : RequestLoaderTest(/*room=*/1, /*max_waiting=*/2) {}
};

TEST_F(ShortLineTest, EachTenantHasAPlaceOfItsOwn) {
  const Submitted first = SubmitAndBlock({"a"});
  const Submitted second = Submit({"b"}, 2, "many");
  const Submitted third = Submit({"c"}, 3, "many");
  EXPECT_THAT(Submit({"d"}, 4, "many").accepted,
              HasReason(ErrorReason::kQueueFull));
  const Submitted other = Submit({"d"}, 5, "one");
  EXPECT_THAT(other.accepted, IsOk());
  engine_.Unblock(Call::kStep);
  for (const Submitted* const request : {&second, &third, &other}) {
    EXPECT_THAT(request->Wait(), IsOk());
  }
}

class RoomForTwoTest : public RequestLoaderTest {
 protected:
  RoomForTwoTest() : RequestLoaderTest(/*room=*/2) {}
};

// Each would have one and wait for the other's, for ever.
TEST_F(RoomForTwoTest, RequestsForTwoEachTakeTurns) {
  const Submitted first = SubmitAndBlock({"a"});
  std::vector<Submitted> others;
  for (int i = 0; i < 2; ++i) {
    others.push_back(Submit({"a", "b"}));
    others.push_back(Submit({"c", "d"}));
    others.push_back(Submit({"b", "c"}));
  }
  engine_.Unblock(Call::kStep);
  for (const Submitted& other : others) EXPECT_THAT(other.Wait(), IsOk());
}

// However busy the device is with what is there.
TEST_F(RoomForTwoTest, WhoHasWaitedForLongIsPassedByNobody) {
  const Submitted a = SubmitAndBlock({"a"});
  const Submitted b = Submit({"b"}, 2);
  AwaitWaiting(0);
  const Submitted c = Submit({"c"}, 3);
  AwaitWaiting(1);
  const Submitted early = Submit({"a"}, 4);
  AwaitWaiting(1);  // not it
  clock_.Advance(absl::Seconds(3));
  const Submitted late = Submit({"a"}, 5);
  const Submitted base = Submit({}, 6);
  AwaitWaiting(2);
  engine_.Unblock(Call::kStep);
  for (const Submitted* const request : {&a, &b, &c, &early, &late, &base}) {
    EXPECT_THAT(request->Wait(), IsOk());
  }
  const std::vector<uint64_t> begun = BegunSeeds();
  const auto place = [&begun](uint64_t seed) {
    return std::find(begun.begin(), begun.end(), seed) - begun.begin();
  };
  EXPECT_LT(place(3), place(5));
}

TEST_F(RequestLoaderTest, EndsWithWhatStillWaits) {
  const Submitted first = SubmitAndBlock({"a"});
  const Submitted second = Submit({"b"});
  AwaitWaiting(1);
  loader_.reset();
  EXPECT_THAT(second.Wait(), HasReason(ErrorReason::kDraining));
  engine_.Unblock(Call::kStep);
  EXPECT_THAT(first.Wait(), IsOk());
}

}  // namespace
}  // namespace graft
