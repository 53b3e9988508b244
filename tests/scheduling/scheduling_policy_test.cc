#include "server/scheduling/scheduling_policy.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kStep = 64 * 64;

// The state of a queue, written down request by request.
class SchedulingPolicyTest : public testing::Test {
 protected:
  SchedulingPolicyTest() { state_.max_batch_size = 4; }

  // A request that waits; ids count from 1.
  RequestView& Add(const std::string& key, int steps = 30, int images = 1,
                   const std::string& tenant = "t") {
    RequestView request;
    request.id = static_cast<int64_t>(state_.requests.size()) + 1;
    request.tenant = tenant;
    for (int i = 0; i < images; ++i) {
      request.images.push_back({i, key, steps * kStep, false});
    }
    state_.shares.Enter(tenant);
    state_.requests.push_back(request);
    return state_.requests.back();
  }

  // The same, begun with its first image.
  RequestView& AddStarted(const std::string& key, int steps_left = 30,
                          int images = 1, const std::string& tenant = "t") {
    RequestView& request = Add(key, steps_left, images, tenant);
    request.started = true;
    request.images[0].begun = true;
    return request;
  }

  // One that is not there yet.
  RequestView Newcomer(const std::string& key) {
    RequestView newcomer = Add(key);
    state_.requests.pop_back();
    return newcomer;
  }

  static RequestView& Batch(RequestView& request) {
    request.priority = Priority::kBatch;
    return request;
  }

  // "1" or, of a request with several images, "1.0".
  std::vector<std::string> Chosen() const {
    std::vector<std::string> chosen;
    for (const BatchImage& image : ChooseBatch(state_).images) {
      const RequestView& request =
          state_.requests[static_cast<size_t>(image.request_id - 1)];
      chosen.push_back(std::to_string(image.request_id));
      if (request.images.size() > 1) {
        chosen.back() += "." + std::to_string(image.image_index);
      }
    }
    return chosen;
  }

  SchedulingState state_;
};

// ---- Order ----

TEST_F(SchedulingPolicyTest, TheOldestComesFirst) {
  Add("a");
  Add("b");
  EXPECT_THAT(Chosen(), ElementsAre("1"));
  EXPECT_THAT(ChooseBatch(state_).starting, ElementsAre(1));
}

TEST_F(SchedulingPolicyTest, WhoHasBegunGoesOn) {
  Add("a");
  AddStarted("b");
  EXPECT_THAT(Chosen(), ElementsAre("2"));
  EXPECT_THAT(ChooseBatch(state_).starting, IsEmpty());
}

TEST_F(SchedulingPolicyTest, OfThoseBegunTheOneBegunFirstGoesOn) {
  AddStarted("a").start_order = 2;
  AddStarted("b").start_order = 1;
  AddStarted("c").start_order = 3;
  EXPECT_THAT(Chosen(), ElementsAre("2"));
}

TEST_F(SchedulingPolicyTest, TenantsTakeTurns) {
  Add("a", 30, 1, "flood");
  Add("b", 30, 1, "flood");
  Add("c", 30, 1, "other");
  state_.shares.Charge("flood", 30 * kStep);
  EXPECT_THAT(Chosen(), ElementsAre("3"));
}

TEST_F(SchedulingPolicyTest, AStartIsChargedToItsTenant) {
  Add("a", 30, 1, "one");
  Add("a", 30, 1, "two");
  const BatchChoice choice = ChooseBatch(state_);
  EXPECT_THAT(choice.starting, ElementsAre(1, 2));
  // The first took its turn, the second joined outside of the round.
  EXPECT_LT(choice.shares.deficit("two"), choice.shares.deficit("one"));
}

// ---- Joining ----

TEST_F(SchedulingPolicyTest, SameSetAndSizeShareABatch) {
  AddStarted("a");
  Add("b");
  Add("a", 12);
  EXPECT_THAT(Chosen(), ElementsAre("1", "3"));
}

TEST_F(SchedulingPolicyTest, ABatchHasABound) {
  for (int i = 0; i < 6; ++i) Add("a");
  EXPECT_THAT(Chosen(), ElementsAre("1", "2", "3", "4"));
  state_.max_batch_size = 1;
  EXPECT_THAT(Chosen(), ElementsAre("1"));
}

TEST_F(SchedulingPolicyTest, ABatchTellsWhyItHasNoMore) {
  const auto stop = [this] { return ChooseBatch(state_).stop; };
  AddStarted("a");
  EXPECT_EQ(stop(), BatchStop::kQueueEmpty);
  Add("b").passed_over = kMaxPassedOver;
  EXPECT_EQ(stop(), BatchStop::kIncompatible);
  Add("a");
  EXPECT_EQ(stop(), BatchStop::kFairness);
  state_.requests[1].passed_over = 0;
  EXPECT_EQ(stop(), BatchStop::kIncompatible);
  state_.max_batch_size = 2;
  EXPECT_EQ(stop(), BatchStop::kFull);
}

TEST_F(SchedulingPolicyTest, SizesAreBuckets) {
  std::vector<int> buckets;
  for (int size = 1; size <= 17; ++size) buckets.push_back(BatchBucket(size));
  EXPECT_THAT(buckets, ElementsAre(1, 2, 3, 4, 4, 6, 6, 8, 8, 8, 8, 12, 12, 12,
                                   12, 16, 16));
  state_.max_batch_size = 8;
  for (int i = 0; i < 5; ++i) Add("a");
  const BatchChoice choice = ChooseBatch(state_);
  EXPECT_EQ(choice.images.size(), 4u);
  // The fifth has not begun and has paid nothing.
  EXPECT_THAT(choice.starting, ElementsAre(1, 2, 3, 4));
  state_.requests.pop_back();
  EXPECT_EQ(choice.shares.deficit("t"),
            ChooseBatch(state_).shares.deficit("t"));
}

TEST_F(SchedulingPolicyTest, WhoHasBegunComesBeforeWhoJoins) {
  AddStarted("a");
  for (int i = 0; i < 3; ++i) Add("a");
  for (int i = 0; i < 3; ++i) AddStarted("a");
  EXPECT_THAT(Chosen(), ElementsAre("1", "5", "6", "7"));
}

TEST_F(SchedulingPolicyTest, ImagesOfARequestShareABatchInOrder) {
  AddStarted("a", 30, 3);
  Add("a");
  Add("a");
  EXPECT_THAT(Chosen(), ElementsAre("1.0", "1.1", "1.2", "2"));
}

TEST_F(SchedulingPolicyTest, JoiningPassesOverTheOlder) {
  AddStarted("a");
  Add("b");
  Add("a");
  Add("a");
  Add("b");
  const BatchChoice choice = ChooseBatch(state_);
  EXPECT_THAT(choice.starting, ElementsAre(3, 4));
  EXPECT_THAT(choice.passed_over, ElementsAre(2, 2));
}

TEST_F(SchedulingPolicyTest, NobodyIsPassedOverMoreThanEightTimes) {
  AddStarted("a");
  Add("b").passed_over = kMaxPassedOver - 1;
  Add("a");
  Add("a");
  EXPECT_THAT(Chosen(), ElementsAre("1", "3"));
  state_.requests[1].passed_over = kMaxPassedOver;
  EXPECT_THAT(Chosen(), ElementsAre("1"));
}

// One whose turn it is has been passed over even by older requests.
TEST_F(SchedulingPolicyTest, AFloodThatCameFirstPassesOverWhoseTurnItIs) {
  AddStarted("a", 30, 1, "flood");
  Add("a", 30, 1, "flood");
  Add("b", 30, 1, "other").passed_over = kMaxPassedOver - 1;
  Add("a", 30, 1, "flood");
  state_.shares.Charge("flood", 30 * kStep);
  EXPECT_THAT(Chosen(), ElementsAre("1", "2"));
  EXPECT_THAT(ChooseBatch(state_).passed_over, ElementsAre(3));
}

TEST_F(SchedulingPolicyTest, TheTenantThatHadLeastJoinsFirst) {
  state_.max_batch_size = 2;
  AddStarted("a");
  Add("a", 30, 1, "flood");
  Add("a", 30, 1, "other");
  state_.shares.Charge("flood", kStep);
  EXPECT_THAT(Chosen(), ElementsAre("1", "3"));
}

// ---- Classes and sizes ----

TEST_F(SchedulingPolicyTest, InteractiveRunsInPlaceOfBatch) {
  Batch(AddStarted("a"));
  Add("b", 50);
  const BatchChoice choice = ChooseBatch(state_);
  EXPECT_THAT(Chosen(), ElementsAre("2"));
  EXPECT_THAT(choice.overtaken, ElementsAre(1));
}

TEST_F(SchedulingPolicyTest, BatchWaitsForInteractive) {
  Batch(Add("a", 1));
  Add("b");
  Add("c");
  EXPECT_THAT(Chosen(), ElementsAre("2"));
}

TEST_F(SchedulingPolicyTest, InteractiveTakesAPlaceInAFullBatch) {
  for (int i = 0; i < 4; ++i) Batch(AddStarted("a"));
  Add("a");
  Add("a");
  EXPECT_THAT(Chosen(), ElementsAre("5", "6", "1", "2"));
  EXPECT_THAT(ChooseBatch(state_).overtaken, IsEmpty());  // it goes on
}

TEST_F(SchedulingPolicyTest, EqualJobsAreNotSliced) {
  AddStarted("a", 30);
  Add("b", 8);  // 30 < 4 * 8
  EXPECT_THAT(Chosen(), ElementsAre("1"));
}

TEST_F(SchedulingPolicyTest, LongJobsYieldToShortOnes) {
  AddStarted("a", 100);
  Add("b", 25);
  EXPECT_THAT(Chosen(), ElementsAre("2"));
  state_.requests[0].images[0].work_left = 99 * kStep;
  EXPECT_THAT(Chosen(), ElementsAre("1"));
}

TEST_F(SchedulingPolicyTest, ManyImagesAreALongJob) {
  AddStarted("a", 30, 4);
  Add("b", 30);
  EXPECT_THAT(Chosen(), ElementsAre("2"));
}

TEST_F(SchedulingPolicyTest, TheShortOneEndsBeforeTheLongOneGoesOn) {
  AddStarted("a", 100);
  AddStarted("b", 20);
  Add("c", 25);
  EXPECT_THAT(Chosen(), ElementsAre("2"));
  EXPECT_THAT(ChooseBatch(state_).overtaken, IsEmpty());  // counted before
}

TEST_F(SchedulingPolicyTest, WhoWasOvertakenEightTimesDoesNotYield) {
  Batch(AddStarted("a")).overtaken = kMaxOvertaken;
  Add("b");
  EXPECT_THAT(Chosen(), ElementsAre("1"));
  state_.requests[0].overtaken = kMaxOvertaken - 1;
  EXPECT_THAT(Chosen(), ElementsAre("2"));
}

// Those that join keep it waiting like the first.
TEST_F(SchedulingPolicyTest, JoiningCountsAsOvertaking) {
  Batch(AddStarted("a")).overtaken = kMaxOvertaken - 2;
  Add("b");
  Add("b");
  Add("b");
  EXPECT_THAT(Chosen(), ElementsAre("2", "3"));
  EXPECT_THAT(ChooseBatch(state_).overtaken, ElementsAre(1, 1));
}

// Else a stream of urgent requests for one adapter would never let go.
TEST_F(SchedulingPolicyTest, UrgentOnesThatJoinOvertakeWhoseTurnItIs) {
  AddStarted("a");
  Batch(Add("b")).overtaken = kMaxOvertaken - 1;
  Add("a");
  Add("a");
  EXPECT_THAT(Chosen(), ElementsAre("1", "3"));
  EXPECT_THAT(ChooseBatch(state_).overtaken, ElementsAre(2));
  EXPECT_THAT(ChooseBatch(state_).passed_over, IsEmpty());
  state_.requests[1].overtaken = kMaxOvertaken;
  EXPECT_THAT(Chosen(), ElementsAre("1"));
}

TEST_F(SchedulingPolicyTest, OvertakingIsFairToTenantsAsWell) {
  Batch(AddStarted("a", 30, 1, "owner"));
  Add("b", 30, 1, "flood");
  Add("c", 30, 1, "other");
  state_.shares.Charge("flood", kStep);
  EXPECT_THAT(Chosen(), ElementsAre("3"));
}

// ---- The place in the queue ----

TEST_F(SchedulingPolicyTest, ANewcomerIsBehindAllThatItMayNotOvertake) {
  AddStarted("a", 10);
  Add("b", 30);
  Batch(Add("c", 30));
  const SchedulingState before = state_;
  const RequestView newcomer = Add("d", 30);
  const QueuePlace place = PlaceOf(before, newcomer);
  EXPECT_EQ(place.position, 2);
  EXPECT_EQ(place.work_ahead, 40 * kStep);
  RequestView batch = newcomer;
  Batch(batch);
  EXPECT_EQ(PlaceOf(before, batch).work_ahead, 70 * kStep);
}

TEST_F(SchedulingPolicyTest, OneThatWaitsIsBehindThoseThatMayOvertakeItToo) {
  AddStarted("a", 10);
  const RequestView waiting = Batch(Add("b", 30));
  Batch(Add("c", 30));
  EXPECT_EQ(PlaceOf(state_, waiting).position, 1);
  Add("d", 30);
  EXPECT_EQ(PlaceOf(state_, waiting).position, 2);
}

TEST_F(SchedulingPolicyTest, AnotherTenantsFloodIsAheadInPartOnly) {
  for (int i = 0; i < 10; ++i) Add("a", 30, 1, "flood");
  Add("b", 20, 1, "other");
  const SchedulingState before = state_;
  EXPECT_EQ(PlaceOf(before, Add("c", 30, 1, "other")).work_ahead,
            (20 + 50) * kStep);
  EXPECT_EQ(PlaceOf(before, Add("c", 30, 1, "flood")).work_ahead,
            (300 + 20) * kStep);
}

// ---- Whether a newcomer waits ----

TEST_F(SchedulingPolicyTest, ANewcomerWithTheRunningSetBeginsNext) {
  AddStarted("a");
  EXPECT_TRUE(BeginsNext(state_, Newcomer("a")));
  EXPECT_FALSE(BeginsNext(state_, Newcomer("b")));
  Add("b");
  EXPECT_TRUE(BeginsNext(state_, Newcomer("a")));
  state_.requests[1].passed_over = kMaxPassedOver;
  EXPECT_FALSE(BeginsNext(state_, Newcomer("a")));
}

TEST_F(SchedulingPolicyTest, ANewcomerNeedsAPlaceInTheBatch) {
  AddStarted("a", 30, 2);
  Add("a");
  EXPECT_TRUE(BeginsNext(state_, Newcomer("a")));
  Add("a");
  EXPECT_FALSE(BeginsNext(state_, Newcomer("a")));
  // It would be the fifth, and five are not run.
  state_.max_batch_size = 8;
  EXPECT_FALSE(BeginsNext(state_, Newcomer("a")));
  Add("a");
  EXPECT_TRUE(BeginsNext(state_, Newcomer("a")));
}

TEST_F(SchedulingPolicyTest, ASetThatHasBegunAndYieldsIsNotTheNext) {
  Batch(AddStarted("a"));
  AddStarted("b");
  RequestView newcomer = Newcomer("a");
  Batch(newcomer);
  EXPECT_FALSE(BeginsNext(state_, newcomer));
}

TEST_F(SchedulingPolicyTest, ANewcomerThatOvertakesBeginsNext) {
  Batch(AddStarted("a"));
  EXPECT_TRUE(BeginsNext(state_, Newcomer("b")));
  EXPECT_TRUE(BeginsNext({}, Newcomer("b")));
}

}  // namespace
}  // namespace graft
