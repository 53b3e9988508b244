// GetLoad, and Drain: what SIGTERM does, without the end of the process.

#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/health_client.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class DrainTest : public testing::Test {
 protected:
  absl::StatusOr<GraftClient::Generated> Generate(int steps = 1) {
    v1::GenerateImageRequest request;
    request.set_steps(static_cast<uint32_t>(steps));
    return client_.Generate(request, [](const v1::GenerateImageResponse&) {});
  }

  v1::ServerLoad Load() {
    const auto load = client_.GetLoad();
    EXPECT_TRUE(load.ok()) << load.status();
    return load.ok() ? *load : v1::ServerLoad();
  }

  void AwaitWaiting(uint32_t requests) {
    while (Load().waiting_requests() != requests) continue;
  }

  // Drains to the end; what the stream said.
  absl::StatusOr<std::vector<uint32_t>> Drain(uint32_t timeout_ms = 0) {
    v1::DrainRequest request;
    request.set_timeout_ms(timeout_ms);
    std::vector<uint32_t> counts;
    const auto left = client_.Drain(
        request, [&counts](uint32_t count) { counts.push_back(count); });
    if (!left.ok()) return left.status();
    return counts;
  }

  InProcessDaemon daemon_{[](DaemonOptions& options) {
    options.batching = false;  // requests end one after the other
  }};
  GraftClient client_{{.server = daemon_.address()}};
};

TEST_F(DrainTest, AnIdleServerHasNoLoad) {
  const v1::ServerLoad load = Load();
  EXPECT_EQ(load.waiting_requests(), 0u);
  EXPECT_EQ(load.running_requests(), 0u);
  EXPECT_EQ(load.waiting_work(), 0u);
  EXPECT_EQ(load.batch_size(), 0u);
  EXPECT_THAT(load.resident(), IsEmpty());
  EXPECT_EQ(load.host().adapters(), 0u);
  EXPECT_FALSE(load.draining());
}

TEST_F(DrainTest, LoadTellsWhatRunsWaitsAndIsMerged) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  v1::LoadAdapterRequest load_ink;
  load_ink.set_path("ink.safetensors");
  ASSERT_TRUE(client_.LoadAdapter(load_ink).ok());
  v1::GenerateImageRequest with_ink;
  with_ink.set_steps(1);
  with_ink.add_adapters()->set_name("ink");
  daemon_.engine().Block(Call::kStep);
  const auto ignore = [](const v1::GenerateImageResponse&) {};
  std::thread running(
      [&] { client_.Generate(with_ink, ignore).IgnoreError(); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  v1::GenerateImageRequest sized;
  sized.set_steps(3);
  sized.set_width(64);
  sized.set_height(128);
  sized.set_count(2);
  std::thread waiting([&] { client_.Generate(sized, ignore).IgnoreError(); });
  AwaitWaiting(1);

  const v1::ServerLoad load = Load();
  EXPECT_EQ(load.running_requests(), 1u);
  EXPECT_EQ(load.batch_size(), 1u);
  EXPECT_EQ(load.waiting_work(), uint64_t{3} * 2 * 64 * 128);
  ASSERT_THAT(load.resident(), SizeIs(1));
  EXPECT_EQ(load.resident(0).name(), "ink");
  EXPECT_EQ(load.host().adapters(), 1u);
  EXPECT_EQ(load.device().adapters(), 1u);
  EXPECT_GT(load.device().bytes(), 0);
  daemon_.engine().Unblock(Call::kStep);
  running.join();
  waiting.join();
}

TEST_F(DrainTest, AnIdleServerIsDrainedAtOnceAndForGood) {
  const auto counts = Drain();
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_THAT(*counts, ElementsAre(0));
  EXPECT_EQ(ErrorReasonOf(Generate().status()), "DRAINING");
  EXPECT_EQ(CheckHealth(daemon_.NewChannel(), ""), Health::kNotServing);
  EXPECT_TRUE(Load().draining());
  const auto again = Drain();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(*again, ElementsAre(0));
}

// What looks after a server, and helps it to drain, goes on.
TEST_F(DrainTest, ADrainingServerAnswersWhatIsNoNewWork) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  v1::LoadAdapterRequest load;
  load.set_path("ink.safetensors");
  ASSERT_TRUE(client_.LoadAdapter(load).ok());
  daemon_.engine().Block(Call::kStep);
  absl::StatusOr<GraftClient::Generated> running;
  std::thread client([&] {
    v1::GenerateImageRequest request;
    request.set_steps(1);
    request.set_request_id("mine");
    request.add_adapters()->set_name("ink");
    running =
        client_.Generate(request, [](const v1::GenerateImageResponse&) {});
  });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  ASSERT_TRUE(Drain(/*timeout_ms=*/1).ok());

  EXPECT_EQ(ErrorReasonOf(client_.LoadAdapter(load).status()), "DRAINING");
  v1::UnloadAdapterRequest unload;
  unload.set_name("ink");
  EXPECT_EQ(ErrorReasonOf(client_.UnloadAdapter(unload).status()), "DRAINING");
  EXPECT_TRUE(client_.GetServerInfo().ok());
  const auto adapters = client_.ListAdapters();
  ASSERT_TRUE(adapters.ok()) << adapters.status();
  EXPECT_THAT(*adapters, SizeIs(1));
  const auto stub = v1::AdapterService::NewStub(daemon_.NewChannel());
  v1::GetAdapterRequest get;
  get.set_name("ink");
  v1::Adapter adapter;
  grpc::ClientContext get_context;
  EXPECT_TRUE(stub->GetAdapter(&get_context, get, &adapter).ok());
  const auto generation = v1::GenerationService::NewStub(daemon_.NewChannel());
  v1::CancelGenerationRequest cancel;
  cancel.set_request_id("mine");
  v1::CancelGenerationResponse cancelled;
  grpc::ClientContext cancel_context;
  EXPECT_TRUE(
      generation->CancelGeneration(&cancel_context, cancel, &cancelled).ok());
  EXPECT_TRUE(cancelled.was_running());
  daemon_.engine().Unblock(Call::kStep);
  client.join();
  EXPECT_EQ(ErrorReasonOf(running.status()), "CLIENT_CANCELLED");
  EXPECT_TRUE(client_.VerifyBaseWeights({}).ok());
  unload.set_force(true);
  EXPECT_TRUE(client_.UnloadAdapter(unload).ok());
}

TEST_F(DrainTest, TellsWhatIsLeftUntilNothingIs) {
  daemon_.engine().Block(Call::kStep);
  absl::StatusOr<GraftClient::Generated> running;
  absl::StatusOr<GraftClient::Generated> waiting;
  std::thread first([&] { running = Generate(); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  std::thread second([&] { waiting = Generate(); });
  AwaitWaiting(1);

  absl::Notification two_left;
  absl::Notification one_left;
  std::vector<uint32_t> counts;
  absl::StatusOr<uint32_t> drained;
  std::thread drainer([&] {
    drained = client_.Drain({}, [&](uint32_t left) {
      counts.push_back(left);
      if (left == 2) two_left.Notify();
      if (left == 1) one_left.Notify();
    });
  });
  two_left.WaitForNotification();
  EXPECT_EQ(ErrorReasonOf(Generate().status()), "DRAINING");
  EXPECT_EQ(CheckHealth(daemon_.NewChannel(), "graft.v1.GenerationService"),
            Health::kNotServing);
  daemon_.engine().LetOneThrough(Call::kStep);
  one_left.WaitForNotification();
  daemon_.engine().Unblock(Call::kStep);
  drainer.join();
  first.join();
  second.join();

  EXPECT_THAT(drained, IsOk());
  EXPECT_THAT(counts, ElementsAre(2, 1, 0));
  EXPECT_TRUE(running.ok()) << running.status();
  EXPECT_TRUE(waiting.ok()) << waiting.status();
}

TEST_F(DrainTest, AnswersAtItsTimeoutWithWhatIsLeft) {
  daemon_.engine().Block(Call::kStep);
  absl::StatusOr<GraftClient::Generated> running;
  std::thread client([&] { running = Generate(); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  const auto counts = Drain(/*timeout_ms=*/1);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_THAT(*counts, ElementsAre(1));
  EXPECT_EQ(ErrorReasonOf(Generate().status()), "DRAINING");
  daemon_.engine().Unblock(Call::kStep);
  client.join();
  EXPECT_TRUE(running.ok()) << running.status();
}

TEST_F(DrainTest, CallerThatGoesAwayUndoesNothing) {
  daemon_.engine().Block(Call::kStep);
  std::thread client([&] { EXPECT_TRUE(Generate().ok()); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  const auto stub = v1::AdminService::NewStub(daemon_.NewChannel());
  {
    grpc::ClientContext context;
    const auto reader = stub->Drain(&context, {});
    v1::DrainResponse response;
    ASSERT_TRUE(reader->Read(&response));
    context.TryCancel();
    while (reader->Read(&response)) continue;
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_EQ(ErrorReasonOf(Generate().status()), "DRAINING");
  daemon_.engine().Unblock(Call::kStep);
  client.join();
}

// A signal to stop ends the process as usual, listeners of the drain included.
TEST_F(DrainTest, ADrainedServerStopsAsUsual) {
  daemon_.engine().Block(Call::kStep);
  absl::StatusOr<GraftClient::Generated> running;
  std::thread client([&] { running = Generate(); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  absl::Notification draining;
  std::thread drainer([&] {
    // How it ends depends on who is first: the last request or the port.
    client_
        .Drain({},
               [&draining](uint32_t left) {
                 if (left == 1) draining.Notify();
               })
        .IgnoreError();
  });
  draining.WaitForNotification();
  FakeEngine& engine = daemon_.engine();
  std::thread stop([&] { daemon_.Stop(); });
  engine.Unblock(Call::kStep);
  stop.join();
  drainer.join();
  client.join();
  EXPECT_TRUE(running.ok()) << running.status();
}

TEST(DrainWhileStartingTest, IsRefused) {
  absl::Notification may_load;
  InProcessDaemon daemon(nullptr, [&may_load] {
    may_load.WaitForNotification();
    return absl::OkStatus();
  });
  GraftClient client({.server = daemon.address()});
  EXPECT_EQ(ErrorReasonOf(client.Drain({}, [](uint32_t) {}).status()),
            "STARTING");
  EXPECT_EQ(ErrorReasonOf(client.GetLoad().status()), "STARTING");
  may_load.Notify();
  EXPECT_THAT(daemon.daemon().WaitUntilServing(), IsOk());
  EXPECT_TRUE(client.GetServerInfo().ok());
}

}  // namespace
}  // namespace graft
