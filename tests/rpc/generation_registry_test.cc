#include "server/rpc/generation_registry.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

v1::GenerateImageRequest Request(const std::string& id,
                                 const std::string& prompt = "a star") {
  v1::GenerateImageRequest request;
  request.set_request_id(id);
  request.set_prompt(prompt);
  return request;
}

class GenerationRegistryTest : public testing::Test {
 protected:
  GenerationRegistry::Admission Admit(const v1::GenerateImageRequest& request,
                                      const std::string& tenant = "default") {
    auto admission =
        registry_.Admit(tenant, request.request_id(), request, /*seed=*/7);
    EXPECT_THAT(admission, IsOk());
    return *std::move(admission);
  }

  // Takes `generation` to its end, with one image.
  static void Succeed(SharedGeneration& generation, std::string image = "png") {
    generation.OnQueued(0, absl::ZeroDuration());
    generation.OnStarted();
    generation.OnProgress(0, 1, 2);
    generation.OnImage(0, Png(std::move(image)));
    generation.OnDone(absl::OkStatus(), {});
  }

  static std::shared_ptr<const std::string> Png(std::string bytes) {
    return std::make_shared<const std::string>(std::move(bytes));
  }

  int finished_ = 0;
  GenerationRegistry registry_{
      [this](const absl::Status&, const GenerationSummary&) { ++finished_; },
      /*max_finished_bytes=*/20'000};
};

TEST_F(GenerationRegistryTest, FirstIsNewAndTheSameAgainJoins) {
  const auto first = Admit(Request("id"));
  EXPECT_TRUE(first.is_new);
  EXPECT_EQ(first.generation->first_seed(), 7u);
  const auto again = Admit(Request("id"));
  EXPECT_FALSE(again.is_new);
  EXPECT_EQ(again.generation, first.generation);
}

TEST_F(GenerationRegistryTest, WhoJoinsHearsAllButOldProgress) {
  const auto admission = Admit(Request("id"));
  const auto early = std::make_shared<RecordingObserver>();
  const auto late = std::make_shared<RecordingObserver>();
  SharedGeneration& generation = *admission.generation;
  generation.Join(early);
  generation.OnQueued(2, absl::Seconds(3));
  generation.OnStarted();
  generation.OnProgress(0, 1, 2);
  generation.OnImage(0, Png("first"));
  Admit(Request("id")).generation->Join(late);
  generation.OnProgress(1, 1, 2);
  generation.OnImage(1, Png("second"));
  GenerationSummary summary;
  summary.truncated_tokens = 5;
  generation.OnDone(absl::OkStatus(), summary);
  EXPECT_THAT(early->events(),
              ElementsAre("queued 2", "started", "progress 0 1/2", "image 0",
                          "progress 1 1/2", "image 1", "done"));
  EXPECT_THAT(late->events(), ElementsAre("queued 2", "started", "image 0",
                                          "progress 1 1/2", "image 1", "done"));
  EXPECT_EQ(late->images(), early->images());
  EXPECT_EQ(late->summary().truncated_tokens, 5);
  EXPECT_EQ(late->estimated_wait(), absl::Seconds(3));
}

TEST_F(GenerationRegistryTest, FinishedRequestIsGivenAgain) {
  Succeed(*Admit(Request("id")).generation);
  const auto again = Admit(Request("id"));
  EXPECT_FALSE(again.is_new);
  const auto listener = std::make_shared<RecordingObserver>();
  again.generation->Join(listener);
  EXPECT_THAT(listener->Wait(), IsOk());
  EXPECT_EQ(listener->images().at(0), "png");
  EXPECT_EQ(finished_, 1);
}

TEST_F(GenerationRegistryTest, AnotherRequestWithTheIdIsRefused) {
  const auto running = Admit(Request("id"));
  EXPECT_THAT(registry_.Admit("default", "id", Request("id", "a moon"), 7),
              HasReason(ErrorReason::kInvalidField, HasSubstr("\"id\"")));
  Succeed(*running.generation);
  EXPECT_THAT(registry_.Admit("default", "id", Request("id", "a moon"), 7),
              HasReason(ErrorReason::kInvalidField));
}

TEST_F(GenerationRegistryTest, TenantsDoNotMeet) {
  const auto mine = Admit(Request("id"), "me");
  const auto theirs = Admit(Request("id"), "them");
  EXPECT_TRUE(theirs.is_new);
  EXPECT_NE(mine.generation, theirs.generation);
  EXPECT_TRUE(registry_.Cancel("them", "id"));
  EXPECT_FALSE(mine.generation->cancel_flag()->load());
  EXPECT_FALSE(registry_.Cancel("nobody", "id"));
}

TEST_F(GenerationRegistryTest, FailedRequestIsForgotten) {
  const auto failed = Admit(Request("id"));
  failed.generation->OnDone(Error(ErrorReason::kQueueFull, "full"), {});
  EXPECT_TRUE(Admit(Request("id")).is_new);
}

TEST_F(GenerationRegistryTest, CancelledRequestGivesItsIdAwayAtOnce) {
  const auto cancelled = Admit(Request("id"));
  EXPECT_TRUE(registry_.Cancel("default", "id"));
  EXPECT_TRUE(cancelled.generation->cancel_flag()->load());
  const auto next = Admit(Request("id"));
  EXPECT_TRUE(next.is_new);
  // Its late end does not touch the next one.
  cancelled.generation->OnDone(Error(ErrorReason::kClientCancelled, "gone"),
                               {});
  EXPECT_EQ(Admit(Request("id")).generation, next.generation);
}

TEST_F(GenerationRegistryTest, NothingIsLeftToCancelAfterTheEnd) {
  Succeed(*Admit(Request("id")).generation);
  EXPECT_FALSE(registry_.Cancel("default", "id"));
  EXPECT_FALSE(registry_.Cancel("default", "unknown"));
}

TEST_F(GenerationRegistryTest, OldestFinishedRequestsMakeRoom) {
  Succeed(*Admit(Request("a")).generation, std::string(5'000, 'x'));
  Succeed(*Admit(Request("b")).generation, std::string(5'000, 'x'));
  EXPECT_FALSE(Admit(Request("a")).is_new);
  Succeed(*Admit(Request("c")).generation, std::string(5'000, 'x'));
  EXPECT_FALSE(Admit(Request("b")).is_new);
  EXPECT_FALSE(Admit(Request("c")).is_new);
  EXPECT_TRUE(Admit(Request("a")).is_new);
}

TEST_F(GenerationRegistryTest, TooLargeResultIsNotKept) {
  Succeed(*Admit(Request("id")).generation, std::string(50'000, 'x'));
  EXPECT_TRUE(Admit(Request("id")).is_new);
}

TEST_F(GenerationRegistryTest, IdsThatTheServerMadeAreNotKept) {
  const auto admission = registry_.Admit("default", "made", Request(""), 7);
  ASSERT_THAT(admission, IsOk());
  EXPECT_TRUE(admission->is_new);
  Succeed(*admission->generation);
  EXPECT_EQ(admission->generation->kept_bytes(), 0);
  EXPECT_FALSE(registry_.Cancel("default", "made"));
}

TEST_F(GenerationRegistryTest, LastListenerWhoLeavesCancels) {
  const auto admission = Admit(Request("id"));
  const auto one = std::make_shared<RecordingObserver>();
  const auto other = std::make_shared<RecordingObserver>();
  admission.generation->Join(one);
  Admit(Request("id")).generation->Join(other);
  admission.generation->Leave(one.get());
  EXPECT_THAT(one->Wait(), HasReason(ErrorReason::kClientCancelled));
  EXPECT_FALSE(admission.generation->cancel_flag()->load());
  EXPECT_THAT(other->events(), IsEmpty());
  admission.generation->Leave(other.get());
  EXPECT_TRUE(admission.generation->cancel_flag()->load());
  EXPECT_FALSE(other->done());  // until the scheduler has noticed
  admission.generation->OnDone(Error(ErrorReason::kClientCancelled, "gone"),
                               {});
  EXPECT_TRUE(other->done());
  admission.generation->Leave(other.get());  // too late: nothing happens
}

TEST_F(GenerationRegistryTest, IdThatTheServerMadeCannotBeJoined) {
  const auto admission = registry_.Admit("default", "made", Request(""), 7);
  ASSERT_THAT(admission, IsOk());
  EXPECT_THAT(registry_.Admit("default", "made", Request("made"), 7),
              HasReason(ErrorReason::kInvalidField, HasSubstr("\"made\"")));
  EXPECT_TRUE(registry_.Cancel("default", "made"));
  EXPECT_TRUE(Admit(Request("made")).is_new);
}

// Who was admitted hears the images, whatever the others do before he listens.
TEST_F(GenerationRegistryTest, LeavingDoesNotCancelForThoseWhoAreAboutToJoin) {
  const auto first = Admit(Request("id"));
  const auto leaver = std::make_shared<RecordingObserver>();
  first.generation->Join(leaver);
  const auto second = Admit(Request("id"));
  first.generation->Leave(leaver.get());
  EXPECT_FALSE(first.generation->cancel_flag()->load());
  EXPECT_THAT(leaver->Wait(), HasReason(ErrorReason::kClientCancelled));
  const auto listener = std::make_shared<RecordingObserver>();
  second.generation->Join(listener);
  Succeed(*first.generation);
  EXPECT_THAT(listener->Wait(), IsOk());
  EXPECT_EQ(listener->images().at(0), "png");
}

TEST_F(GenerationRegistryTest, RequestThatAllHaveLeftIsBegunAnew) {
  const auto first = Admit(Request("id"));
  const auto leaver = std::make_shared<RecordingObserver>();
  first.generation->Join(leaver);
  first.generation->Leave(leaver.get());
  EXPECT_TRUE(Admit(Request("id")).is_new);
}

// Leaves as it hears the end, as a client may.
class LeavingObserver : public RecordingObserver {
 public:
  explicit LeavingObserver(SharedGeneration* generation)
      : generation_(generation) {}
  void OnDone(const absl::Status& status,
              const GenerationSummary& summary) override {
    RecordingObserver::OnDone(status, summary);  // dies the second time
    generation_->Leave(this);
  }

 private:
  SharedGeneration* const generation_;
};

TEST_F(GenerationRegistryTest, EndIsHeardOnceByWhoLeavesWithIt) {
  const auto first = Admit(Request("id"));
  const auto one = std::make_shared<LeavingObserver>(first.generation.get());
  const auto other = std::make_shared<LeavingObserver>(first.generation.get());
  first.generation->Join(one);
  Admit(Request("id")).generation->Join(other);
  Succeed(*first.generation);
  EXPECT_THAT(one->Wait(), IsOk());
  EXPECT_THAT(other->Wait(), IsOk());
}

TEST_F(GenerationRegistryTest, StreamsOfARequestAreBounded) {
  auto first = Admit(Request("id"));
  std::vector<SharedGeneration::Place> places = {std::move(first.place)};
  first.generation->Join(std::make_shared<RecordingObserver>());
  while (places.size() < size_t{SharedGeneration::kMaxStreams}) {
    auto admission = Admit(Request("id"));
    admission.generation->Join(std::make_shared<RecordingObserver>());
    places.push_back(std::move(admission.place));
  }
  const auto full = registry_.Admit("default", "id", Request("id"), 7);
  EXPECT_THAT(full, HasReason(ErrorReason::kQueueFull));
  EXPECT_TRUE(GetRetryDelay(full.status()).has_value());
  // Those that have heard all, but are still being read, count, too.
  Succeed(*first.generation);
  EXPECT_THAT(registry_.Admit("default", "id", Request("id"), 7),
              HasReason(ErrorReason::kQueueFull));
  places.pop_back();
  EXPECT_FALSE(Admit(Request("id")).is_new);
}

// What waits to be read by many is one copy.
TEST_F(GenerationRegistryTest, ListenersShareTheBytesOfImages) {
  const auto admission = Admit(Request("id"));
  const std::shared_ptr<const std::string> png = Png("png");
  class Keeper : public RecordingObserver {
   public:
    void OnImage(int, std::shared_ptr<const std::string> bytes) override {
      bytes_ = std::move(bytes);
    }
    std::shared_ptr<const std::string> bytes_;
  };
  const auto early = std::make_shared<Keeper>();
  admission.generation->Join(early);
  admission.generation->OnImage(0, png);
  admission.generation->OnDone(absl::OkStatus(), {});
  const auto late = std::make_shared<Keeper>();
  Admit(Request("id")).generation->Join(late);
  EXPECT_EQ(early->bytes_, png);
  EXPECT_EQ(late->bytes_, png);
}

// A finished request lets go of those who have heard it.
TEST_F(GenerationRegistryTest, ReplayKeepsNoListener) {
  Succeed(*Admit(Request("id")).generation);
  const auto listener = std::make_shared<RecordingObserver>();
  Admit(Request("id")).generation->Join(listener);
  EXPECT_THAT(listener->Wait(), IsOk());
  EXPECT_EQ(listener.use_count(), 1);
}

}  // namespace
}  // namespace graft
