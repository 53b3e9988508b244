#include "server/scheduling/request_replies.h"

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/manual_executor.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

Image SmallImage() { return {8, 8, std::vector<uint8_t>(8 * 8 * 3, 7)}; }

class RequestRepliesTest : public testing::Test {
 protected:
  RequestRepliesTest() {
    auto task = std::make_unique<GenerationTask>();
    task->observer = observer_;
    replies_ = std::make_shared<RequestReplies>(
        std::move(task), &executor_, &clock_, [this] { ++done_calls_; });
  }

  FakeClock clock_;
  ManualExecutor executor_;
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

}  // namespace
}  // namespace graft
