// What happens to adapters, their files and their folder while requests use
// them.
//
// GRAFT_CHAOS_LOADS=1024 in the environment makes the races the full size.
//
// Faults that are injected, and where:
//
//    1  kill -9 at any moment          SuddenEndTest.AfterAKillTheNextStart-
//                                      Serves
//    2  failure anywhere in a switch   AdapterSwitcherTest.FailureAnywhere-
//                                      LeavesFormerSet
//    8  file changes while it is read  FileThatChangesWhileItIsRead;
//                                      FileReaderTest.AFileThat*IsRefused
//    9  file changes while merged      FileThatIsGoneOrChangedWhileItIsMerged;
//                                      MixedRequestsTest
//   10  folder gone, or hanging        FolderThatIsGoneAndComesBack,
//                                      LoadsThatHangHoldUpNobodyElse;
//                                      AdapterSourceTest.AnUnreadableFileIs-
//                                      NotAllowed
//   11  FIFO, socket, device, folder   AdapterSourceTest.AFifoDoesNotBlock,
//                                      ASocketIsNoFile, ADirectoryIsNoFile,
//                                      ADeviceIsOutsideOrNoFile
//   12  client leaves at any stage     ClientFaultsTest.ClientsThatLeaveAtAny-
//                                      Stage; GenerateTest.DisconnectStopsThe-
//                                      Work; UploadTest.DisconnectLeaves-
//                                      NothingBehind
//   13  deadline in queue, run, past   ClientFaultsTest.DeadlinesPassInThe-
//                                      QueueAndInTheRun; RequestSchedulerTest.
//                                      Deadline*; RequestSchedulerOrderTest.
//                                      RefusesADeadlineThatCannotBeKept;
//                                      GenerateTest.PassedDeadline*
//   14  reader that stops              StoppedReadersTest.HoldUpNobodyElse;
//                                      LifecycleTest.StoppedReaderIsCutOff
//   15  queue overflows                FullQueueTest.RefusesAtOnce;
//                                      GenerateQueueTest
//   16  10,000 idle connections        ConnectionsTest
//   17  descriptors run out            GraftdTest.ServesAgainAfterAFloodOf-
//                                      Connections
//   21  wrong credentials              CredentialsTest, SecurityTest
//   23  SIGTERM under load             SuddenEndTest.ADrainLosesNothingThat-
//                                      WasAccepted; GraftdTest.FirstSignal-
//                                      DrainsAndSecondEndsAtOnce
//   27  many loads of one name         ManyLoadsOfOneNameAtOnce
//   28  loads, unloads, requests race  LoadsUnloadsAndRequestsRace,
//                                      RunningRequestKeepsWhatIsUnloadedAnd-
//                                      LoadedAnew; AdapterTiersTest.
//                                      APinnedAdapterIsNotUnloaded
//   29  eviction of what is queued     FullDeviceTest.AdapterOfAQueuedRequest-
//                                      IsNotEvicted
//   37  one bad among good adapters    OneBadAmongGoodAdapters

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/sha256.h"
#include "server/image/png_encoder.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/full_size.h"

namespace graft {
namespace {

namespace fs = std::filesystem;
using Call = FakeEngine::Call;
using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr int kClients = 32;

int LoadsPerClient() { return SizeOfTest("GRAFT_CHAOS_LOADS", 16); }

// Calls `body(client, number)` from many threads at once, each with its own
// connection.
void RunClients(const std::string& server,
                const std::function<void(GraftClient&, int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      GraftClient client({.server = server});
      body(client, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::string DigestOf(int variant) {
  const std::string bytes = TinyLoraFile(variant);
  return Sha256Hex(bytes.data(), bytes.size());
}

v1::GenerateImageRequest Request(const std::string& adapter) {
  v1::GenerateImageRequest request;
  request.set_width(64);
  request.set_height(64);
  request.set_steps(2);
  request.set_seed(7);
  if (!adapter.empty()) request.add_adapters()->set_name(adapter);
  return request;
}

// The picture with this content of the adapter, whatever ran before. The image
// data of its file: what is left without the text chunks.
std::string ExpectedPixels(const std::string& sha256) {
  GenerationParams params;
  params.width = 64;
  params.height = 64;
  params.steps = 2;
  params.seed = 7;
  const std::string png =
      *EncodePng(FakeEngine::ExpectedImage(params, {{sha256, 1.0, 1.0}}), {});
  return png.substr(png.rfind("IDAT"));
}

class AdapterFaultsTest : public testing::Test {
 protected:
  explicit AdapterFaultsTest(
      const std::function<void(DaemonOptions&)>& change = nullptr)
      : daemon_(change), client_({.server = daemon_.address()}) {}

  std::string Write(const std::string& name, int variant) {
    return daemon_.adapter_dir().Write(name + ".safetensors",
                                       TinyLoraFile(variant));
  }

  absl::StatusOr<v1::LoadAdapterResponse> Load(const std::string& name,
                                               bool allow_replace = false) {
    return Load(client_, name + ".safetensors", name, allow_replace);
  }

  static absl::StatusOr<v1::LoadAdapterResponse> Load(
      GraftClient& client, const std::string& path, const std::string& name,
      bool allow_replace = false) {
    v1::LoadAdapterRequest request;
    request.set_path(path);
    request.set_name(name);
    request.set_allow_replace(allow_replace);
    return client.LoadAdapter(request);
  }

  static absl::Status Unload(GraftClient& client, const std::string& name,
                             bool only_if_unused = false) {
    v1::UnloadAdapterRequest request;
    request.set_name(name);
    request.set_only_if_unused(only_if_unused);
    return client.UnloadAdapter(request).status();
  }

  // An image with the adapter, which must be the one of the content that the
  // answer names.
  static absl::Status Generate(GraftClient& client, const std::string& name) {
    const auto answer =
        client.Generate(Request(name), [](const v1::GenerateImageResponse&) {});
    if (!answer.ok()) return answer.status();
    const std::string& png = answer->images[0];
    EXPECT_EQ(png.substr(png.rfind("IDAT")),
              ExpectedPixels(answer->finished.adapters(0).sha256()));
    return answer.status();
  }

  // No request has an adapter any more.
  void ExpectNothingHeld() {
    const auto adapters = client_.ListAdapters();
    ASSERT_TRUE(adapters.ok()) << adapters.status();
    for (const v1::Adapter& adapter : *adapters) {
      EXPECT_EQ(adapter.in_flight(), 0) << adapter.name();
    }
  }

  InProcessDaemon daemon_;
  GraftClient client_;
};

// Fault 8: either one whole version, told by its hash, or a clear error.
TEST_F(AdapterFaultsTest, FileThatChangesWhileItIsRead) {
  std::atomic<bool> stop{false};
  std::thread vandal([&] {
    const std::string path = Write("ink", 1);
    std::mt19937 random(1);
    while (!stop) {
      const int variant = 1 + static_cast<int>(random() % 2);
      std::error_code ignored;
      switch (random() % 4) {
        case 0:
          fs::resize_file(path, random() % 500, ignored);
          break;
        case 1:
          Write("ink", variant);  // truncated and written again
          break;
        case 2:
          fs::rename(daemon_.adapter_dir().Write("new", TinyLoraFile(variant)),
                     path);
          break;
        default:
          fs::remove(path, ignored);
      }
    }
  });
  int loaded = 0;
  for (int i = 0; i < 300; ++i) {
    const auto response = Load("ink", /*allow_replace=*/true);
    if (!response.ok()) {
      EXPECT_THAT(ErrorReasonOf(response.status()),
                  AnyOf("ADAPTER_CORRUPT", "ADAPTER_NOT_FOUND"));
      continue;
    }
    ++loaded;
    EXPECT_THAT(response->adapter().sha256(), AnyOf(DigestOf(1), DigestOf(2)));
    EXPECT_TRUE(Generate(client_, "ink").ok());
  }
  stop = true;
  vandal.join();
  EXPECT_GT(loaded, 0);
}

// Fault 9: what is loaded does not need its file.
TEST_F(AdapterFaultsTest, FileThatIsGoneOrChangedWhileItIsMerged) {
  const std::string path = Write("ink", 1);
  ASSERT_TRUE(Load("ink").ok());
  ASSERT_TRUE(Generate(client_, "ink").ok());
  Write("ink", 2);
  EXPECT_TRUE(Generate(client_, "ink").ok());
  fs::resize_file(path, 10);
  EXPECT_TRUE(Generate(client_, "ink").ok());
  fs::remove(path);
  EXPECT_TRUE(Generate(client_, "ink").ok());
  EXPECT_EQ(daemon_.engine().calls(Call::kPrepare), 1);
  EXPECT_TRUE(Unload(client_, "ink").ok());
}

// Fault 10: only what needs the folder is refused.
TEST_F(AdapterFaultsTest, FolderThatIsGoneAndComesBack) {
  Write("ink", 1);
  ASSERT_TRUE(Load("ink").ok());
  const std::string folder = daemon_.adapter_dir().path();
  fs::rename(folder, folder + "-away");
  const auto check = [&](const char* why) {
    EXPECT_EQ(ErrorReasonOf(Load("ink").status()), "ADAPTER_NOT_FOUND") << why;
    EXPECT_TRUE(Generate(client_, "ink").ok()) << why;
    EXPECT_TRUE(client_.ListAdapters().ok()) << why;
  };
  check("missing");
  std::ofstream(folder) << "no folder";
  check("a file");
  fs::remove(folder);
  fs::rename(folder + "-away", folder);
  EXPECT_TRUE(Load("ink").ok());
}

// Fault 10: as on a disk that does not answer any more. All threads that load
// hang; who waits for them leaves at its deadline, the others do not notice.
TEST_F(AdapterFaultsTest, LoadsThatHangHoldUpNobodyElse) {
  Write("ink", 1);
  ASSERT_TRUE(Load("ink").ok());
  daemon_.engine().Block(Call::kPrepare);
  GraftClient hurried(
      {.server = daemon_.address(), .timeout = absl::Milliseconds(100)});
  for (int i = 0; i < 4; ++i) {
    const std::string name = absl::StrCat("slow", i);
    Write(name, 2 + i);
    EXPECT_EQ(Load(hurried, name + ".safetensors", name).status().code(),
              absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_TRUE(Generate(client_, "ink").ok());
  EXPECT_TRUE(client_.ListAdapters().ok());
  EXPECT_TRUE(client_.GetServerInfo().ok());
  daemon_.engine().Unblock(Call::kPrepare);
}

// Fault 27: they agree, and the device gets it once.
TEST_F(AdapterFaultsTest, ManyLoadsOfOneNameAtOnce) {
  Write("ink", 1);
  Write("other", 2);
  const int loads = LoadsPerClient();
  RunClients(daemon_.address(), [&](GraftClient& client, int number) {
    for (int i = 0; i < loads; ++i) {
      // One of them wants another content under the name.
      const bool odd = number == 0 && i > 0;
      const auto response =
          Load(client, odd ? "other.safetensors" : "ink.safetensors", "ink");
      EXPECT_EQ(ErrorReasonOf(response.status()),
                odd ? "ADAPTER_CONFLICT" : "NO_REASON")
          << response.status();
      if (!odd && response.ok()) {
        EXPECT_EQ(response->adapter().sha256(), DigestOf(1));
      }
    }
  });
  EXPECT_EQ(daemon_.engine().calls(Call::kPrepare), 1);
  EXPECT_TRUE(Generate(client_, "ink").ok());
}

// Faults 27 and 28: loads, unloads and requests of one name, and of others,
// all at once.
TEST_F(AdapterFaultsTest, LoadsUnloadsAndRequestsRace) {
  Write("ink", 1);
  Write("night", 2);
  for (int i = 0; i < kClients; ++i) Write(absl::StrCat("own", i), 10 + i);
  std::atomic<int> images{0};
  const int loads = LoadsPerClient();
  RunClients(daemon_.address(), [&](GraftClient& client, int number) {
    std::mt19937 random(static_cast<uint32_t>(number));
    const std::string own = absl::StrCat("own", number);
    for (int i = 0; i < loads; ++i) {
      // "ink" has now the one content and now the other.
      const char* const path =
          random() % 2 == 0 ? "ink.safetensors" : "night.safetensors";
      const auto loaded = Load(client, path, "ink", /*allow_replace=*/true);
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      const absl::Status generated = Generate(client, "ink");
      if (generated.ok()) ++images;
      EXPECT_THAT(ErrorReasonOf(generated),
                  AnyOf("NO_REASON", "ADAPTER_NOT_FOUND"));
      EXPECT_THAT(ErrorReasonOf(Unload(client, "ink", random() % 2 == 0)),
                  AnyOf("NO_REASON", "ADAPTER_NOT_FOUND", "ADAPTER_IN_USE"));
      EXPECT_TRUE(Load(client, own + ".safetensors", own).ok());
      EXPECT_TRUE(Generate(client, own).ok());
      const absl::Status unloaded = Unload(client, own, random() % 2 == 0);
      EXPECT_TRUE(unloaded.ok()) << unloaded;
    }
  });
  EXPECT_GT(images, 0);
  ExpectNothingHeld();
  EXPECT_THAT(ErrorReasonOf(Unload(client_, "ink")),
              AnyOf("NO_REASON", "ADAPTER_NOT_FOUND"));
  EXPECT_EQ(client_.ListAdapters()->size(), 0u);
  EXPECT_EQ(daemon_.engine().live_prepared(), 0);
}

// Fault 28: the request keeps what it was accepted with.
TEST_F(AdapterFaultsTest, RunningRequestKeepsWhatIsUnloadedAndLoadedAnew) {
  Write("ink", 1);
  ASSERT_TRUE(Load("ink").ok());
  daemon_.engine().Block(Call::kStep);
  std::thread running([&] { EXPECT_TRUE(Generate(client_, "ink").ok()); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  EXPECT_EQ(ErrorReasonOf(Unload(client_, "ink", /*only_if_unused=*/true)),
            "ADAPTER_IN_USE");
  std::thread unload([&] { EXPECT_TRUE(Unload(client_, "ink").ok()); });
  while (client_.ListAdapters()->at(0).state() !=
         v1::Adapter::STATE_UNLOADING) {
    std::this_thread::yield();
  }
  EXPECT_EQ(ErrorReasonOf(Generate(client_, "ink")), "ADAPTER_NOT_FOUND");
  Write("ink", 2);
  const auto anew = Load("ink");
  ASSERT_TRUE(anew.ok()) << anew.status();
  EXPECT_EQ(anew->adapter().sha256(), DigestOf(2));
  daemon_.engine().Unblock(Call::kStep);
  running.join();
  unload.join();
  EXPECT_TRUE(Generate(client_, "ink").ok());
  EXPECT_THAT(daemon_.engine().switches(),
              ElementsAre(FakeSet{{DigestOf(1), 1.0, 1.0}}, FakeSet{},
                          FakeSet{{DigestOf(2), 1.0, 1.0}}));
}

class FullDeviceTest : public AdapterFaultsTest {
 protected:
  FullDeviceTest()
      : AdapterFaultsTest([](DaemonOptions& options) {
          options.max_adapter_device_bytes = RoomForOne();
        }) {}

  static int64_t RoomForOne() {
    InProcessDaemon daemon;
    daemon.adapter_dir().Write("ink.safetensors", TinyLoraFile(1));
    GraftClient client({.server = daemon.address()});
    return Load(client, "ink.safetensors", "ink")->adapter().device_bytes();
  }
};

// Fault 29: a request that waits has its adapter's place on the device; who
// comes later waits until it is free.
TEST_F(FullDeviceTest, AdapterOfAQueuedRequestIsNotEvicted) {
  Write("ink", 1);
  Write("night", 2);
  ASSERT_TRUE(Load("ink").ok());
  daemon_.engine().Block(Call::kStep);
  std::thread running([&] {
    EXPECT_TRUE(
        client_.Generate(Request(""), [](const v1::GenerateImageResponse&) {})
            .ok());
  });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  std::atomic<bool> queued{false};
  std::thread waiting([&] {
    const auto answer = client_.Generate(
        Request("ink"), [&](const v1::GenerateImageResponse& event) {
          if (event.has_queued()) queued = true;
        });
    EXPECT_TRUE(answer.ok()) << answer.status();
  });
  while (!queued) continue;
  ASSERT_TRUE(Load("night").ok());  // in host memory
  const int prepared = daemon_.engine().calls(Call::kPrepare);
  std::thread later([&] {
    const absl::Status status = Generate(client_, "night");
    EXPECT_TRUE(status.ok()) << status;
  });
  daemon_.engine().Unblock(Call::kStep);
  running.join();
  waiting.join();
  later.join();
  // The first was not prepared again, nor the second in vain.
  EXPECT_EQ(daemon_.engine().calls(Call::kPrepare), prepared + 1);
  EXPECT_THAT(daemon_.engine().switches(),
              AllOf(Contains(FakeSet{{DigestOf(1), 1.0, 1.0}}),
                    Contains(FakeSet{{DigestOf(2), 1.0, 1.0}})));
}

// Fault 37: nothing is applied, not even the good ones.
TEST_F(AdapterFaultsTest, OneBadAmongGoodAdapters) {
  Write("ink", 1);
  ASSERT_TRUE(Load("ink").ok());
  v1::GenerateImageRequest request = Request("ink");
  request.add_adapters()->set_name("nobody");
  const auto ignore = [](const v1::GenerateImageResponse&) {};
  EXPECT_EQ(ErrorReasonOf(client_.Generate(request, ignore).status()),
            "ADAPTER_NOT_FOUND");
  request.mutable_adapters(1)->set_name("ink");  // twice
  EXPECT_EQ(ErrorReasonOf(client_.Generate(request, ignore).status()),
            "INVALID_FIELD");
  EXPECT_THAT(daemon_.engine().switches(), IsEmpty());
  ExpectNothingHeld();
}

}  // namespace
}  // namespace graft
