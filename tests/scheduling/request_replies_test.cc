#include "server/scheduling/request_replies.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/inline_executor.h"
#include "tests/testing/manual_executor.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

constexpr absl::Duration kProgressInterval = absl::Milliseconds(100);

Image SmallImage() { return {8, 8, std::vector<uint8_t>(8 * 8 * 3, 7)}; }

class RequestRepliesTest : public testing::Test {
 protected:
  RequestRepliesTest() {
    auto task = std::make_unique<GenerationTask>();
    task->observer = observer_;
    task->count = 2;
    replies_ = std::make_shared<RequestReplies>(
        std::move(task), &executor_, &replier_, &clock_, kProgressInterval,
        [this] { ++done_calls_; });
  }

  FakeClock clock_;
  ManualExecutor executor_;
  InlineExecutor replier_;
  std::shared_ptr<RecordingObserver> observer_ =
      std::make_shared<RecordingObserver>();
  int done_calls_ = 0;
  std::shared_ptr<RequestReplies> replies_;
};

TEST_F(RequestRepliesTest, EventsWaitForOpen) {
  replies_->Started();
  EXPECT_THAT(observer_->events(), ElementsAre());
  replies_->Open(4, absl::ZeroDuration());
  EXPECT_THAT(observer_->events(), ElementsAre("queued 4", "started"));
}

// The device's thread reports; it must not wait for whoever listens.
TEST_F(RequestRepliesTest, ReportsAreDeliveredByTheReplier) {
  ManualExecutor replier;
  auto task = std::make_unique<GenerationTask>();
  task->observer = observer_;
  const auto replies = std::make_shared<RequestReplies>(
      std::move(task), &executor_, &replier, &clock_, kProgressInterval, [] {});
  replies->Open(0, absl::ZeroDuration());
  replies->Started();
  replies->Progress(0, 2, 2);
  replies->Moved(1, absl::ZeroDuration());
  replies->Done(absl::OkStatus(), {});
  EXPECT_THAT(observer_->events(), ElementsAre("queued 0"));
  EXPECT_EQ(replier.pending(), 1);
  replier.RunNext();
  EXPECT_THAT(
      observer_->events(),
      ElementsAre("queued 0", "started", "progress 0 2/2", "queued 1", "done"));
}

// Each image's steps are told once in an interval, and the last one.
TEST_F(RequestRepliesTest, ProgressThatComesTooFastIsLeftOut) {
  replies_->Open(0, absl::ZeroDuration());
  replies_->Started();
  for (int step = 1; step <= 5; ++step) {
    clock_.Advance(kProgressInterval / 2);
    replies_->Progress(0, step, 5);
    replies_->Progress(1, step, 6);
  }
  replies_->Progress(1, 6, 6);
  EXPECT_THAT(observer_->events(),
              ElementsAre("queued 0", "started", "progress 0 2/5",
                          "progress 1 2/6", "progress 0 4/5", "progress 1 4/6",
                          "progress 0 5/5", "progress 1 6/6"));
}

TEST_F(RequestRepliesTest, NextImageGoesOnWhileOneIsEncoded) {
  replies_->Open(0, absl::ZeroDuration());
  replies_->Image(0, SmallImage(), {});
  replies_->Progress(1, 1, 2);
  executor_.RunNext();
  EXPECT_THAT(observer_->events(),
              ElementsAre("queued 0", "progress 1 1/2", "image 0"));
  EXPECT_THAT(observer_->images().at(0), StartsWith("\x89PNG"));
}

TEST_F(RequestRepliesTest, OneImageIsEncodedAtATimeSoTheyStayInOrder) {
  replies_->Open(0, absl::ZeroDuration());
  replies_->Image(0, SmallImage(), {});
  replies_->Image(1, SmallImage(), {});
  EXPECT_EQ(executor_.pending(), 1);
  executor_.RunNext();
  executor_.RunNext();
  EXPECT_THAT(observer_->events(),
              ElementsAre("queued 0", "image 0", "image 1"));
}

TEST_F(RequestRepliesTest, DoneWaitsForTheEncoder) {
  replies_->Open(0, absl::ZeroDuration());
  replies_->Image(0, SmallImage(), {});
  replies_->Done(absl::OkStatus(), {});
  EXPECT_FALSE(observer_->done());
  executor_.RunNext();
  EXPECT_THAT(observer_->Wait(), IsOk());
  EXPECT_THAT(observer_->events(), ElementsAre("queued 0", "image 0", "done"));
  EXPECT_EQ(done_calls_, 1);
}

TEST_F(RequestRepliesTest, AnErrorDropsImagesThatWait) {
  replies_->Open(0, absl::ZeroDuration());
  replies_->Image(0, SmallImage(), {});
  replies_->Done(Error(ErrorReason::kClientCancelled, "gone"), {});
  executor_.RunNext();
  EXPECT_THAT(observer_->Wait(), HasReason(ErrorReason::kClientCancelled));
  EXPECT_THAT(observer_->events(), ElementsAre("queued 0", "done"));
}

TEST_F(RequestRepliesTest, EncoderErrorEndsTheRequest) {
  replies_->Open(0, absl::ZeroDuration());
  replies_->Image(0, Image{8, 8, {}}, {});  // no pixels
  executor_.RunNext();
  replies_->Done(absl::OkStatus(), {});
  EXPECT_FALSE(observer_->Wait().ok());
  EXPECT_THAT(observer_->events(), ElementsAre("queued 0", "done"));
}

TEST_F(RequestRepliesTest, ReleasesTheTaskBeforeItSaysThatAllIsOver) {
  const std::weak_ptr<RecordingObserver> observer = observer_;
  replies_->Open(0, absl::ZeroDuration());
  replies_->Done(absl::OkStatus(), {});
  observer_.reset();
  EXPECT_TRUE(observer.expired());
  EXPECT_EQ(done_calls_, 1);
}

// Looks, when it hears of the end, whether the task is still there.
class EndListener : public RecordingObserver {
 public:
  explicit EndListener(std::weak_ptr<void> task) : task_(std::move(task)) {}

  void OnDone(const absl::Status& status,
              const GenerationSummary& summary) override {
    task_was_held_ = !task_.expired();
    RecordingObserver::OnDone(status, summary);
  }

  bool task_was_held() const { return task_was_held_; }

 private:
  const std::weak_ptr<void> task_;
  bool task_was_held_ = true;
};

// A client may unload the adapter as soon as it has its image.
TEST_F(RequestRepliesTest, ReleasesTheTaskBeforeTheClientHearsOfTheEnd) {
  auto task = std::make_unique<GenerationTask>();
  task->cancelled = std::make_shared<std::atomic<bool>>(false);
  const auto listener = std::make_shared<EndListener>(task->cancelled);
  task->observer = listener;
  const auto replies =
      std::make_shared<RequestReplies>(std::move(task), &executor_, &replier_,
                                       &clock_, kProgressInterval, [] {});
  replies->Open(0, absl::ZeroDuration());
  replies->Done(absl::OkStatus(), {});
  EXPECT_TRUE(listener->done());
  EXPECT_FALSE(listener->task_was_held());
}

}  // namespace
}  // namespace graft
