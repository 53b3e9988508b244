#include "server/scheduling/request_queue.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/manual_executor.h"

namespace graft {
namespace {

using testing::ElementsAre;

class RequestQueueTest : public testing::Test {
 protected:
  // A request known by its id.
  AcceptedRequest Request(const std::string& id,
                          absl::Time deadline = absl::InfiniteFuture()) {
    auto task = std::make_unique<GenerationTask>();
    task->request_id = id;
    task->deadline = deadline;
    task->cancelled = std::make_shared<std::atomic<bool>>(false);
    auto replies = std::make_shared<RequestReplies>(std::move(task), &executor_,
                                                    &clock_, [] {});
    const AcceptedRequest request{replies, clock_.Now()};
    clock_.Advance(absl::Seconds(1));
    return request;
  }

  static std::vector<std::string> Ids(
      const std::vector<AcceptedRequest>& requests) {
    std::vector<std::string> ids;
    for (const AcceptedRequest& request : requests) {
      ids.push_back(request.replies->task().request_id);
    }
    return ids;
  }

  FakeClock clock_;
  ManualExecutor executor_;
  RequestQueue queue_{3};
};

TEST_F(RequestQueueTest, IsFullAtItsCapacity) {
  queue_.Push(Request("a"));
  queue_.Push(Request("b"));
  EXPECT_FALSE(queue_.full());
  queue_.Push(Request("c"));
  EXPECT_TRUE(queue_.full());
  EXPECT_EQ(queue_.size(), 3);
}

TEST_F(RequestQueueTest, GivesTheOldestFirst) {
  queue_.Push(Request("a"));
  queue_.Push(Request("b"));
  EXPECT_EQ(queue_.TakeNext().replies->task().request_id, "a");
  EXPECT_EQ(queue_.TakeNext().replies->task().request_id, "b");
  EXPECT_TRUE(queue_.empty());
}

TEST_F(RequestQueueTest, TakesTheDeadAndKeepsTheOrderOfTheRest) {
  const absl::Time soon = clock_.Now() + absl::Seconds(1);
  const AcceptedRequest cancelled = Request("cancelled");
  queue_.Push(Request("late", soon));
  queue_.Push(cancelled);
  queue_.Push(Request("alive"));
  cancelled.replies->task().cancelled->store(true);

  EXPECT_THAT(Ids(queue_.TakeDead(clock_.Now())),
              ElementsAre("late", "cancelled"));
  EXPECT_THAT(Ids(queue_.TakeAll()), ElementsAre("alive"));
}

}  // namespace
}  // namespace graft
