#ifndef GRAFT_TESTS_SCHEDULING_SCHEDULER_FIXTURE_H_
#define GRAFT_TESTS_SCHEDULING_SCHEDULER_FIXTURE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_store.h"
#include "server/common/executor.h"
#include "server/scheduling/request_scheduler.h"
#include "tests/testing/fake_clock.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/recording_observer.h"
#include "tests/testing/temp_dir.h"

namespace graft {

// A request under test: what was submitted, and what came back.
struct Submitted {
  absl::Status accepted;
  std::shared_ptr<RecordingObserver> observer =
      std::make_shared<RecordingObserver>();
  CancelFlag cancelled = std::make_shared<std::atomic<bool>>(false);
};

// A scheduler over a fake engine and a fake clock.
class SchedulerFixture : public testing::Test {
 protected:
  using Call = FakeEngine::Call;

  SchedulerFixture();

  // Makes the scheduler. REQUIRES: called once, before Submit.
  void Start(const RequestScheduler::Options& options);

  // Loads an adapter with content of its own; its digest.
  std::string Load(const std::string& name);

  // A small image of two steps without adapters.
  static std::unique_ptr<GenerationTask> Task(uint64_t seed = 1);
  std::unique_ptr<GenerationTask> TaskWith(const std::string& adapter,
                                           double weight = 1.0,
                                           uint64_t seed = 1);

  Submitted Submit(std::unique_ptr<GenerationTask> task);

  // Submits a request and waits until it is inside `call` on the device.
  Submitted SubmitAndBlockIn(Call call, std::unique_ptr<GenerationTask> task);

  // Keeps the device from choosing what to do next, so that the requests that
  // are submitted meanwhile are all there when it does.
  void HoldDevice();
  void ReleaseDevice();

  // Lets the device make one step, and waits until it is inside the next one.
  // REQUIRES: it is blocked in a step, and there is another to come.
  void LetOneStepThrough();

  // The PNG files that `task` is to give, by image index.
  std::map<int, std::string> ExpectedImages(const GenerationTask& task) const;

  // What UnloadAdapter does; the bytes that are free now.
  absl::StatusOr<int64_t> UnloadAndRelease(const std::string& name);

  TempDir directory_;
  FakeEngine engine_;
  AdapterSource source_;
  std::unique_ptr<AdapterStore> store_;
  FakeClock clock_;
  ThreadPoolExecutor encoder_{2};
  absl::Notification released_;  // before the scheduler, which may wait for it
  std::unique_ptr<RequestScheduler> scheduler_;

 private:
  int next_variant_ = 0;
};

}  // namespace graft

#endif  // GRAFT_TESTS_SCHEDULING_SCHEDULER_FIXTURE_H_
