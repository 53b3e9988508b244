// Requests that name adapters which are not loaded yet, or not on the device.

#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

// Makes one small picture with `adapter`; what the server says of it at the
// end.
grpc::Status Generate(InProcessDaemon& daemon, const std::string& adapter,
                      v1::Finished* finished = nullptr,
                      const std::string& request_id = "") {
  const auto stub = v1::GenerationService::NewStub(daemon.NewChannel());
  v1::GenerateImageRequest request;
  request.set_width(64);
  request.set_height(64);
  request.set_steps(1);
  request.set_request_id(request_id);
  request.add_adapters()->set_name(adapter);
  grpc::ClientContext context;
  const auto reader = stub->GenerateImage(&context, request);
  v1::GenerateImageResponse response;
  while (reader->Read(&response)) {
    if (response.has_finished() && finished != nullptr) {
      *finished = response.finished();
    }
  }
  return reader->Finish();
}

// Whether there was such a request to cancel.
bool Cancel(InProcessDaemon& daemon, const std::string& request_id) {
  const auto stub = v1::GenerationService::NewStub(daemon.NewChannel());
  v1::CancelGenerationRequest request;
  request.set_request_id(request_id);
  v1::CancelGenerationResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      stub->CancelGeneration(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.was_running();
}

TEST(AutoloadTest, RequestLoadsTheFileItNames) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.autoload = true; });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  v1::Finished first;
  const grpc::Status status = Generate(daemon, "ink", &first);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(first.adapters(0).sha256().size(), 64u);
  EXPECT_GT(first.timings().adapter_load_ms(), 0);
  v1::Finished second;
  EXPECT_TRUE(Generate(daemon, "ink", &second).ok());
  EXPECT_EQ(second.timings().adapter_load_ms(), 0);
  EXPECT_EQ(ReasonOf(Generate(daemon, "pastel")), "ADAPTER_NOT_FOUND");
  daemon.adapter_dir().Write("broken.safetensors", "{}");
  EXPECT_EQ(ReasonOf(Generate(daemon, "broken")), "ADAPTER_CORRUPT");
}

TEST(AutoloadTest, IsOffByDefault) {
  InProcessDaemon daemon;
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  EXPECT_EQ(ReasonOf(Generate(daemon, "ink")), "ADAPTER_NOT_FOUND");
}

TEST(AutoloadTest, RequestsThatWantOneAdapterAtOnceLoadItOnce) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.autoload = true; });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      const grpc::Status status = Generate(daemon, "ink");
      EXPECT_TRUE(status.ok()) << status.error_message();
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(daemon.engine().calls(FakeEngine::Call::kPrepare), 1);
}

// While it waits for a loader thread.
TEST(AutoloadTest, ARequestThatIsCancelledLoadsNothing) {
  InProcessDaemon daemon([](DaemonOptions& options) {
    options.autoload = true;
    options.loader_threads = 1;
  });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile(0));
  daemon.adapter_dir().Write("night.safetensors", TinyLoraFile(1));
  daemon.engine().Block(FakeEngine::Call::kPrepare);
  std::thread first([&] {
    const grpc::Status status = Generate(daemon, "ink");
    EXPECT_TRUE(status.ok()) << status.error_message();
  });
  ASSERT_TRUE(daemon.engine().WaitUntilBlocked(FakeEngine::Call::kPrepare));
  std::thread second([&] {
    EXPECT_EQ(ReasonOf(Generate(daemon, "night", nullptr, "second")),
              "CLIENT_CANCELLED");
  });
  while (!Cancel(daemon, "second")) std::this_thread::yield();
  daemon.engine().Unblock(FakeEngine::Call::kPrepare);
  first.join();
  second.join();
  EXPECT_EQ(daemon.engine().calls(FakeEngine::Call::kPrepare), 1);
}

// Of the device's memory, for that many adapters.
int64_t RoomFor(int adapters) {
  InProcessDaemon unlimited(
      [](DaemonOptions& options) { options.autoload = true; });
  unlimited.adapter_dir().Write("ink.safetensors", TinyLoraFile(0));
  EXPECT_TRUE(Generate(unlimited, "ink").ok());
  return adapters * unlimited.engine().memory().adapter_bytes;
}

// With room for two adapters on the device, requests for many at once take
// turns, too, and so do those for two each.
TEST(AutoloadTest, RequestsWaitUntilTheDeviceHasRoomForTheirAdapters) {
  constexpr int kAdapters = 8;
  const int64_t room = RoomFor(2);
  ASSERT_GT(room, 0);
  InProcessDaemon daemon([&](DaemonOptions& options) {
    options.autoload = true;
    options.max_adapter_device_bytes = room;
  });
  for (int i = 0; i < kAdapters; ++i) {
    daemon.adapter_dir().Write(absl::StrCat("a", i, ".safetensors"),
                               TinyLoraFile(i));
  }
  // The first keeps its adapter, and the device, until all others are there.
  daemon.engine().Block(FakeEngine::Call::kStep);
  std::vector<std::thread> clients;
  for (int i = 0; i < kAdapters; ++i) {
    clients.emplace_back([&daemon, i] {
      const grpc::Status status = Generate(daemon, absl::StrCat("a", i));
      EXPECT_TRUE(status.ok()) << status.error_message();
    });
    if (i == 0) {
      ASSERT_TRUE(daemon.engine().WaitUntilBlocked(FakeEngine::Call::kStep));
    }
  }
  // Who waits can be cancelled.
  clients.emplace_back([&daemon] {
    EXPECT_EQ(ReasonOf(Generate(daemon, "a1", nullptr, "cancelled")),
              "CLIENT_CANCELLED");
  });
  while (!Cancel(daemon, "cancelled")) std::this_thread::yield();
  daemon.engine().Unblock(FakeEngine::Call::kStep);
  for (std::thread& client : clients) client.join();
}

// The one that was merged last gives way even to a request that is alone; a pin
// does not, and nobody waits for it in vain.
TEST(AutoloadTest, ThereNeedBeRoomForOneAdapterOnly) {
  const int64_t room = RoomFor(1);
  InProcessDaemon daemon([&](DaemonOptions& options) {
    options.autoload = true;
    options.max_adapter_device_bytes = room;
  });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile(0));
  daemon.adapter_dir().Write("night.safetensors", TinyLoraFile(1));
  for (const char* const name : {"ink", "night", "ink"}) {
    const grpc::Status status = Generate(daemon, name);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  v1::UpdateAdapterRequest pin;
  pin.mutable_adapter()->set_name("ink");
  pin.mutable_adapter()->set_pinned(true);
  pin.mutable_update_mask()->add_paths("pinned");
  grpc::ClientContext context;
  v1::Adapter adapter;
  ASSERT_TRUE(v1::AdapterService::NewStub(daemon.NewChannel())
                  ->UpdateAdapter(&context, pin, &adapter)
                  .ok());
  EXPECT_EQ(ReasonOf(Generate(daemon, "night")), "ADAPTER_CACHE_FULL");
}

// With room for two adapters on the device, one of them merged, three take
// turns there.
TEST(AutoloadTest, AdaptersGiveWayOnTheDevice) {
  const int64_t room = RoomFor(2);
  ASSERT_GT(room, 0);

  InProcessDaemon daemon([&](DaemonOptions& options) {
    options.autoload = true;
    options.max_adapter_device_bytes = room;
  });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile(0));
  daemon.adapter_dir().Write("night.safetensors", TinyLoraFile(1));
  daemon.adapter_dir().Write("pastel.safetensors", TinyLoraFile(2));
  for (int i = 0; i < 3; ++i) {
    for (const char* const name : {"ink", "night", "pastel"}) {
      const grpc::Status status = Generate(daemon, name);
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
  }
  EXPECT_GT(daemon.engine().calls(FakeEngine::Call::kPrepare), 3);
  EXPECT_LE(daemon.engine().memory().adapter_bytes, room);
}

// The request is finished or refused, as it happens; nothing hangs or is lost.
TEST(AutoloadTest, StopsWhileARequestLoads) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.autoload = true; });
  daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  daemon.engine().Block(FakeEngine::Call::kPrepare);
  std::thread client([&] {
    const grpc::Status status = Generate(daemon, "ink");
    EXPECT_TRUE(status.ok() || ReasonOf(status) == "DRAINING" ||
                ReasonOf(status) == "ADMIN_CANCELLED")
        << status.error_message();
  });
  ASSERT_TRUE(daemon.engine().WaitUntilBlocked(FakeEngine::Call::kPrepare));
  daemon.daemon().RequestStop();
  daemon.engine().Unblock(FakeEngine::Call::kPrepare);
  daemon.Stop();
  client.join();
}

}  // namespace
}  // namespace graft
