// What clients do to a server: they leave, they are in a hurry, they do not
// read, they come all at once, and they have no business here.
//
// GRAFT_CHAOS_DISCONNECTS=1000 in the environment makes it the full size.

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "gtest/gtest.h"
#include "server/common/log.h"
#include "server/image/png_encoder.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/full_size.h"
#include "tests/testing/log_capture.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;

int Disconnects() { return SizeOfTest("GRAFT_CHAOS_DISCONNECTS", 100); }

v1::GenerateImageRequest Request(uint64_t seed) {
  v1::GenerateImageRequest request;
  request.set_width(64);
  request.set_height(64);
  request.set_steps(4);
  request.set_seed(seed);
  return request;
}

std::string Pixels(const std::string& png) {
  return png.substr(png.rfind("IDAT"));
}

std::string ExpectedPixels(uint64_t seed, const FakeSet& set) {
  GenerationParams params;
  params.width = 64;
  params.height = 64;
  params.steps = 4;
  params.seed = seed;
  return Pixels(*EncodePng(FakeEngine::ExpectedImage(params, set), {}));
}

int CountDescriptors() {
  return static_cast<int>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                    std::filesystem::directory_iterator()));
}

class ClientFaultsTest : public testing::Test {
 protected:
  explicit ClientFaultsTest(
      const std::function<void(DaemonOptions&)>& change = nullptr)
      : daemon_(change), client_({.server = daemon_.address()}) {
    daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile(1));
    v1::LoadAdapterRequest load;
    load.set_path("ink.safetensors");
    const auto loaded = client_.LoadAdapter(load);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    ink_ = loaded->adapter().sha256();
  }

  // An image that must be right.
  void GenerateOne(GraftClient& client, uint64_t seed, bool with_ink) {
    v1::GenerateImageRequest request = Request(seed);
    FakeSet set;
    if (with_ink) {
      request.add_adapters()->set_name("ink");
      set.push_back({ink_, 1.0, 1.0});
    }
    const auto answer =
        client.Generate(request, [](const v1::GenerateImageResponse&) {});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(Pixels(answer->images[0]), ExpectedPixels(seed, set));
  }

  InProcessDaemon daemon_;
  GraftClient client_;
  std::string ink_;  // its digest
};

// A client that leaves at a moment of its own.
class Deserter {
 public:
  explicit Deserter(InProcessDaemon* daemon)
      : daemon_(daemon),
        stub_(v1::GenerationService::NewStub(daemon->NewChannel())) {}

  // Makes a request and leaves it.
  void Desert(std::mt19937_64& random) {
    const auto context = std::make_shared<grpc::ClientContext>();
    v1::GenerateImageRequest request = Request(random());
    request.set_steps(1 + static_cast<uint32_t>(random() % 8));
    if (random() % 2 == 0) request.add_adapters()->set_name("ink");
    // While it waits or is written: when the client has read so many events.
    // Else when the engine makes the next such call, whomever for.
    static constexpr Call kCalls[] = {Call::kSwitch, Call::kBegin, Call::kStep,
                                      Call::kFinish};
    const size_t stage = random() % (std::size(kCalls) + 2);
    uint64_t events_left = 1 + random() % 10;
    if (stage < std::size(kCalls)) {
      events_left = 1000;
      daemon_->engine().OnCall(kCalls[stage],
                               [context] { context->TryCancel(); });
    } else if (stage == std::size(kCalls)) {
      events_left = 1;
    }
    const auto reader = stub_->GenerateImage(context.get(), request);
    v1::GenerateImageResponse event;
    while (reader->Read(&event)) {
      if (--events_left == 0) context->TryCancel();
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok() ||
                status.error_code() == grpc::StatusCode::CANCELLED)
        << status.error_message();
    if (!status.ok()) ++left_;
    for (const Call call : kCalls) daemon_->engine().OnCall(call, nullptr);
  }

  int left() const { return left_; }

 private:
  InProcessDaemon* const daemon_;
  const std::unique_ptr<v1::GenerationService::Stub> stub_;
  int left_ = 0;
};

// Fault 12: at every stage. Others get their images, and nothing is left.
TEST_F(ClientFaultsTest, ClientsThatLeaveAtAnyStage) {
  GenerateOne(client_, 1, true);
  const int descriptors = CountDescriptors();
  std::atomic<bool> stop{false};
  std::vector<std::thread> loyal;
  for (uint64_t i = 0; i < 2; ++i) {
    loyal.emplace_back([&, i] {
      GraftClient client({.server = daemon_.address()});
      for (uint64_t seed = i; !stop; ++seed) {
        GenerateOne(client, seed, seed % 3 == 0);
      }
    });
  }
  {
    Deserter deserter(&daemon_);
    std::mt19937_64 random(1);
    while (deserter.left() < Disconnects()) deserter.Desert(random);
  }
  stop = true;
  for (std::thread& client : loyal) client.join();
  // The server has heard of the last one when it has nothing to do.
  while (daemon_.engine().live_generations() > 0) GenerateOne(client_, 2, true);
  GenerateOne(client_, 3, false);
  GenerateOne(client_, 3, true);
  v1::UnloadAdapterRequest unload;
  unload.set_name("ink");
  EXPECT_TRUE(client_.UnloadAdapter(unload).ok());  // nobody holds it
  EXPECT_EQ(daemon_.engine().live_prepared(), 0);
  while (CountDescriptors() > descriptors) std::this_thread::yield();
}

// Fault 13. The client hears its own clock first; the server's log tells which
// it was.
TEST_F(ClientFaultsTest, DeadlinesPassInTheQueueAndInTheRun) {
  constexpr absl::Duration kTimeout = absl::Milliseconds(300);
  LogCapture log;
  daemon_.engine().Block(Call::kStep);
  const auto hurry = [&](const std::string& id) {
    v1::GenerateImageRequest request = Request(1);
    request.set_request_id(id);
    GraftClient client({.server = daemon_.address(), .timeout = kTimeout});
    EXPECT_EQ(client.Generate(request, [](const v1::GenerateImageResponse&) {})
                  .status()
                  .code(),
              absl::StatusCode::kDeadlineExceeded);
  };
  std::thread running([&] { hurry("running"); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  std::thread waiting([&] { hurry("waiting"); });
  running.join();
  waiting.join();
  // The server counts from a request's arrival, which was before now; gRPC
  // sends times rounded up.
  absl::SleepFor(kTimeout * 1.1);
  daemon_.engine().Unblock(Call::kStep);
  for (const char* const id : {"running", "waiting"}) {
    while (log.Count(absl::StrCat("request_id=", id)) == 0) {
      std::this_thread::yield();
    }
  }
  GenerateOne(client_, 1, true);
  EXPECT_EQ(daemon_.engine().calls(Call::kFinish), 1);
  EXPECT_EQ(daemon_.engine().live_generations(), 0);
}

class StoppedReadersTest : public ClientFaultsTest {
 protected:
  StoppedReadersTest()
      : ClientFaultsTest([](DaemonOptions& options) {
          options.transport.write_timeout = absl::Milliseconds(500);
        }) {}
};

// Fault 14: many that do not read, and one that is served all the same.
TEST_F(StoppedReadersTest, HoldUpNobodyElse) {
  constexpr int kReaders = 16;
  LogCapture log;
  grpc::ChannelArguments small_window;
  small_window.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  small_window.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  small_window.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  v1::GenerateImageRequest request = Request(1);
  request.set_width(1024);
  request.set_height(1024);
  struct Reader {
    grpc::ClientContext context;
    std::unique_ptr<v1::GenerationService::Stub> stub;
    std::unique_ptr<grpc::ClientReader<v1::GenerateImageResponse>> stream;
  };
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < kReaders; ++i) {
    auto reader = std::make_unique<Reader>();
    reader->stub = v1::GenerationService::NewStub(grpc::CreateCustomChannel(
        daemon_.address(), grpc::InsecureChannelCredentials(), small_window));
    reader->stream = reader->stub->GenerateImage(&reader->context, request);
    readers.push_back(std::move(reader));
  }
  ASSERT_TRUE(daemon_.engine().WaitUntilCalled(Call::kFinish, kReaders));
  GenerateOne(client_, 5, true);
  // They are cut off, not read.
  while (log.Count("reason=CLIENT_CANCELLED") < kReaders) {
    std::this_thread::yield();
  }
  EXPECT_EQ(daemon_.engine().live_generations(), 0);
  for (const auto& reader : readers) {
    v1::GenerateImageResponse event;
    while (reader->stream->Read(&event)) continue;
    EXPECT_EQ(reader->stream->Finish().error_code(),
              grpc::StatusCode::CANCELLED);
  }
}

class ShortWriteTimeoutTest : public ClientFaultsTest {
 protected:
  ShortWriteTimeoutTest()
      : ClientFaultsTest([](DaemonOptions& options) {
          options.transport.write_timeout = absl::Microseconds(200);
        }) {}
};

// The timer of a stream fires just when the stream ends: a race for the
// sanitizers to see.
TEST_F(ShortWriteTimeoutTest, TimersFireAsStreamsEnd) {
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      GraftClient client({.server = daemon_.address()});
      for (int request = 0; request < Disconnects(); ++request) {
        const absl::Status status =
            client.Generate(Request(i), [](const v1::GenerateImageResponse&) {})
                .status();
        EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  while (daemon_.engine().live_generations() > 0) std::this_thread::yield();
}

class FullQueueTest : public ClientFaultsTest {
 protected:
  FullQueueTest()
      : ClientFaultsTest([](DaemonOptions& options) {
          options.limits.max_queued_requests = 8;
        }) {}
};

// Fault 15: five times as many as there is room for. Who is refused hears it
// while the device makes no step (how soon, tests/bench/load measures), who was
// accepted gets its image.
TEST_F(FullQueueTest, RefusesAtOnce) {
  constexpr int kAccepted = 9;  // one runs
  daemon_.engine().Block(Call::kStep);
  std::atomic<int> queued{0};
  std::vector<std::thread> accepted;
  for (int i = 0; i < kAccepted; ++i) {
    accepted.emplace_back([&] {
      const auto answer = client_.Generate(
          Request(1), [&](const v1::GenerateImageResponse& event) {
            if (event.has_queued()) ++queued;
          });
      EXPECT_TRUE(answer.ok()) << answer.status();
    });
    if (i == 0) {
      ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
    }
  }
  while (queued < kAccepted) std::this_thread::yield();
  for (int i = 0; i < 5 * kAccepted; ++i) {
    const absl::Status refused =
        client_.Generate(Request(1), [](const v1::GenerateImageResponse&) {})
            .status();
    EXPECT_EQ(ErrorReasonOf(refused), "QUEUE_FULL") << refused;
    EXPECT_TRUE(RetryDelayOf(refused).has_value());
  }
  daemon_.engine().Unblock(Call::kStep);
  for (std::thread& client : accepted) client.join();
}

}  // namespace
}  // namespace graft
