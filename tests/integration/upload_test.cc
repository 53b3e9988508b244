// UploadAdapter: the file appears whole, or not at all.

#include <fcntl.h>
#include <grpcpp/client_context.h>
#include <sys/file.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_source.h"
#include "server/adapters/adapter_store.h"
#include "server/adapters/open_beneath.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/rpc/adapter_upload.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class UploadTest : public testing::Test {
 protected:
  explicit UploadTest(
      const std::function<void(DaemonOptions&)>& change = nullptr)
      : daemon_(change),
        stub_(v1::AdapterService::NewStub(daemon_.NewChannel())) {}

  static v1::UploadAdapterRequest HeaderOf(const std::string& bytes) {
    v1::UploadAdapterRequest message;
    message.mutable_header()->set_name("ink");
    message.mutable_header()->set_sha256(Sha256Hex(bytes.data(), bytes.size()));
    message.mutable_header()->set_size_bytes(bytes.size());
    return message;
  }

  static v1::UploadAdapterRequest Data(const std::string& bytes) {
    v1::UploadAdapterRequest message;
    message.set_data(bytes);
    return message;
  }

  // Sends these messages.
  grpc::Status Send(const std::vector<v1::UploadAdapterRequest>& messages) {
    response_.Clear();
    return Send(*stub_, messages, response_);
  }
  static grpc::Status Send(
      v1::AdapterService::Stub& stub,
      const std::vector<v1::UploadAdapterRequest>& messages,
      v1::LoadAdapterResponse& response) {
    grpc::ClientContext context;
    const auto writer = stub.UploadAdapter(&context, &response);
    for (const v1::UploadAdapterRequest& message : messages) {
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }

  // Names in the adapter directory, hidden ones too.
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator(daemon_.adapter_dir().path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  std::string ReadFile(const std::string& name) const {
    std::ifstream file(daemon_.adapter_dir().File(name), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  InProcessDaemon daemon_;
  const std::unique_ptr<v1::AdapterService::Stub> stub_;
  v1::LoadAdapterResponse response_;
};

TEST_F(UploadTest, FileIsKeptAndLoaded) {
  const std::string bytes = TinyLoraFile();
  const grpc::Status status = Send(
      {HeaderOf(bytes), Data(bytes.substr(0, 10)), Data(bytes.substr(10))});
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response_.adapter().name(), "ink");
  EXPECT_EQ(response_.adapter().path(), "ink.safetensors");
  EXPECT_EQ(response_.adapter().state(), v1::Adapter::STATE_ACTIVE);
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
}

TEST_F(UploadTest, SameFileAgainIsFine) {
  const std::string bytes = TinyLoraFile();
  ASSERT_TRUE(Send({HeaderOf(bytes), Data(bytes)}).ok());
  const grpc::Status status = Send({HeaderOf(bytes), Data(bytes)});
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(response_.already_loaded());
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
}

TEST_F(UploadTest, OtherContentNeedsAllowReplace) {
  ASSERT_TRUE(Send({HeaderOf(TinyLoraFile(1)), Data(TinyLoraFile(1))}).ok());
  v1::UploadAdapterRequest header = HeaderOf(TinyLoraFile(2));
  EXPECT_EQ(ReasonOf(Send({header, Data(TinyLoraFile(2))})),
            "ADAPTER_CONFLICT");
  header.mutable_header()->set_allow_replace(true);
  EXPECT_TRUE(Send({header, Data(TinyLoraFile(2))}).ok());
  EXPECT_EQ(response_.adapter().sha256(), header.header().sha256());
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
}

TEST_F(UploadTest, FileThatIsNotLoadedIsNotOverwritten) {
  daemon_.adapter_dir().Write("ink.safetensors", "the operator's own");
  EXPECT_EQ(ReasonOf(Send({HeaderOf(TinyLoraFile()), Data(TinyLoraFile())})),
            "ADAPTER_CONFLICT");
  EXPECT_EQ(
      std::filesystem::file_size(daemon_.adapter_dir().File("ink.safetensors")),
      18u);
}

TEST_F(UploadTest, WhatIsWrongLeavesNothingBehind) {
  const std::string bytes = TinyLoraFile();
  EXPECT_EQ(ReasonOf(Send({HeaderOf(bytes)})), "ADAPTER_CORRUPT");
  EXPECT_EQ(ReasonOf(Send({HeaderOf(bytes), Data(bytes.substr(1))})),
            "ADAPTER_CORRUPT");
  EXPECT_EQ(ReasonOf(Send({HeaderOf(bytes), Data(bytes + "x")})),
            "ADAPTER_CORRUPT");
  std::string other = bytes;
  other.back() ^= 1;
  EXPECT_EQ(ReasonOf(Send({HeaderOf(bytes), Data(other)})), "ADAPTER_CORRUPT");
  EXPECT_EQ(ReasonOf(Send({HeaderOf("junk"), Data("junk")})),
            "ADAPTER_CORRUPT");
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_TRUE(Send({HeaderOf(bytes), Data(bytes)}).ok());
}

TEST_F(UploadTest, ErrorsTellTheFilesOwnName) {
  const std::string bytes =
      AdapterFileBuilder()
          .AddKohyaPair("lora_unet_nowhere", {2, 8}, {8, 2})
          .Build();
  const grpc::Status status = Send({HeaderOf(bytes), Data(bytes)});
  EXPECT_EQ(ReasonOf(status), "ADAPTER_KEYS_UNMATCHED");
  EXPECT_THAT(status.error_message(), HasSubstr("ink.safetensors"));
  EXPECT_THAT(status.error_message(), Not(HasSubstr(".upload")));
}

TEST_F(UploadTest, MessagesOutOfOrderAreRefused) {
  const std::string bytes = TinyLoraFile();
  EXPECT_EQ(ReasonOf(Send({})), "INVALID_FIELD");
  EXPECT_EQ(ReasonOf(Send({Data(bytes)})), "INVALID_FIELD");
  EXPECT_EQ(ReasonOf(Send({HeaderOf(bytes), HeaderOf(bytes)})),
            "INVALID_FIELD");
  EXPECT_EQ(ReasonOf(Send({HeaderOf(bytes), Data("")})), "INVALID_FIELD");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(UploadTest, FolderOfTheNameStays) {
  std::filesystem::create_directory(
      daemon_.adapter_dir().File("ink.safetensors"));
  const std::string bytes = TinyLoraFile();
  v1::UploadAdapterRequest header = HeaderOf(bytes);
  EXPECT_EQ(ReasonOf(Send({header, Data(bytes)})), "ADAPTER_CONFLICT");
  header.mutable_header()->set_allow_replace(true);
  EXPECT_EQ(ReasonOf(Send({header, Data(bytes)})), "ADAPTER_CONFLICT");
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
}

// Good, but not loaded: it goes, and what was there is there again.
TEST_F(UploadTest, WhatCannotBeLoadedLeavesTheDirectoryAsItWas) {
  const std::string first = TinyLoraFile(1);
  const std::string second = TinyLoraFile(2);
  daemon_.engine().Fail(FakeEngine::Call::kPrepare,
                        Error(ErrorReason::kGpuOutOfMemory, "full"));
  EXPECT_EQ(ReasonOf(Send({HeaderOf(first), Data(first)})),
            "GPU_OUT_OF_MEMORY");
  EXPECT_THAT(Files(), IsEmpty());
  daemon_.engine().Fail(FakeEngine::Call::kPrepare, absl::OkStatus());
  ASSERT_TRUE(Send({HeaderOf(first), Data(first)}).ok());
  daemon_.engine().Fail(FakeEngine::Call::kPrepare,
                        Error(ErrorReason::kGpuOutOfMemory, "full"));
  v1::UploadAdapterRequest header = HeaderOf(second);
  header.mutable_header()->set_allow_replace(true);
  EXPECT_EQ(ReasonOf(Send({header, Data(second)})), "GPU_OUT_OF_MEMORY");
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
  EXPECT_EQ(ReadFile("ink.safetensors"), first);
}

TEST_F(UploadTest, HeaderIsChecked) {
  const auto refused = [this](const auto& change) {
    v1::UploadAdapterRequest message = HeaderOf("x");
    change(*message.mutable_header());
    return ReasonOf(Send({message}));
  };
  EXPECT_EQ(refused([](auto& header) { header.set_name("../ink"); }),
            "INVALID_FIELD");
  EXPECT_EQ(refused([](auto& header) { header.clear_sha256(); }),
            "INVALID_FIELD");
  EXPECT_EQ(refused([](auto& header) { header.set_sha256("abc"); }),
            "INVALID_FIELD");
  EXPECT_EQ(refused([](auto& header) { header.set_size_bytes(0); }),
            "INVALID_FIELD");
  EXPECT_EQ(refused([](auto& header) { header.set_request_id("a\n"); }),
            "INVALID_FIELD");
  EXPECT_EQ(
      refused([](auto& header) { header.set_size_bytes(uint64_t{1} << 63); }),
      "ADAPTER_TOO_LARGE");
}

TEST_F(UploadTest, DisconnectLeavesNothingBehind) {
  const std::string bytes = TinyLoraFile();
  {
    grpc::ClientContext context;
    const auto writer = stub_->UploadAdapter(&context, &response_);
    ASSERT_TRUE(writer->Write(HeaderOf(bytes)));
    ASSERT_TRUE(writer->Write(Data(bytes.substr(1))));
    while (Files().empty()) continue;  // until the server has it
    context.TryCancel();
    EXPECT_FALSE(writer->Finish().ok());
  }
  while (!Files().empty()) continue;
  EXPECT_TRUE(Send({HeaderOf(bytes), Data(bytes)}).ok());
}

TEST_F(UploadTest, ClientSendsWholeFiles) {
  const TempDir dir;
  // More than a chunk.
  const std::string path = dir.Write(
      "my ink.safetensors",
      AdapterFileBuilder()
          .AddKohyaPair("lora_unet_down_blocks_0_attentions_0_transformer_"
                        "blocks_0_attn1_to_q",
                        {100'000, 8}, {8, 100'000})
          .Build());
  GraftClient client({.server = daemon_.address()});
  v1::UploadAdapterHeader header;
  header.set_name("ink");
  const auto response = client.UploadAdapter(header, path);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->adapter().max_rank(), 100'000);
  EXPECT_EQ(client.UploadAdapter(header, dir.File("nothing")).status().code(),
            absl::StatusCode::kNotFound);
}

// What another process does that cannot lock the directory, or does not try.
TEST_F(UploadTest, WhatOthersHavePutThereIsNotTakenBack) {
  const std::string bytes = TinyLoraFile();
  v1::UploadAdapterRequest header = HeaderOf(bytes);
  header.mutable_header()->set_allow_replace(true);
  daemon_.engine().Fail(FakeEngine::Call::kPrepare,
                        Error(ErrorReason::kGpuOutOfMemory, "full"));
  daemon_.engine().OnCall(FakeEngine::Call::kPrepare, [this] {
    std::filesystem::rename(daemon_.adapter_dir().Write("new", "theirs"),
                            daemon_.adapter_dir().File("ink.safetensors"));
  });
  EXPECT_EQ(ReasonOf(Send({header, Data(bytes)})), "GPU_OUT_OF_MEMORY");
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
  EXPECT_EQ(ReadFile("ink.safetensors"), "theirs");
  // The same for an upload that replaces a file.
  daemon_.adapter_dir().Write("ink.safetensors", "former");
  EXPECT_EQ(ReasonOf(Send({header, Data(bytes)})), "GPU_OUT_OF_MEMORY");
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
  EXPECT_EQ(ReadFile("ink.safetensors"), "theirs");
}

TEST_F(UploadTest, TheDirectoryIsLockedUntilTheFileIsLoaded) {
  const FileDescriptor directory(open(daemon_.adapter_dir().path().c_str(),
                                      O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto lock = [&directory] {
    return flock(directory.get(), LOCK_EX | LOCK_NB) == 0;
  };
  const std::string bytes = TinyLoraFile();
  daemon_.engine().Block(FakeEngine::Call::kPrepare);
  std::thread upload([&] {
    EXPECT_TRUE(Send({HeaderOf(bytes), Data(bytes)}).ok());
  });
  EXPECT_TRUE(daemon_.engine().WaitUntilBlocked(FakeEngine::Call::kPrepare));
  EXPECT_FALSE(lock());
  daemon_.engine().Unblock(FakeEngine::Call::kPrepare);
  upload.join();
  EXPECT_TRUE(lock());
}

// Of two daemons, and of several calls of each: all replace the same file, and
// each finds its own when it loads it.
TEST_F(UploadTest, UploadsThatReplaceOneAnotherTakeTurns) {
  InProcessDaemon other([this](DaemonOptions& options) {
    options.adapter_dir = daemon_.adapter_dir().path();
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      const auto stub = v1::AdapterService::NewStub(
          (i % 2 == 0 ? daemon_ : other).NewChannel());
      for (int j = 0; j < 25; ++j) {
        const std::string bytes = TinyLoraFile(1 + 25 * i + j);
        v1::UploadAdapterRequest header = HeaderOf(bytes);
        header.mutable_header()->set_allow_replace(true);
        v1::LoadAdapterResponse response;
        const grpc::Status status =
            Send(*stub, {header, Data(bytes)}, response);
        EXPECT_TRUE(status.ok()) << status.error_message();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
}

// A process that was stopped keeps its lock for as long as it likes.
TEST(AdapterUploadTest, GoesOnWithoutALockThatDoesNotCome) {
  const TempDir dir;
  const FakeEngine engine;
  const AdapterSource source({.directory = dir.path()});
  const auto store = AdapterStore::Create(&source, &engine).value();
  const FileDescriptor stopped(
      open(dir.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(stopped.get(), LOCK_EX), 0);
  const std::string bytes = TinyLoraFile();
  v1::UploadAdapterHeader header;
  header.set_name("ink");
  header.set_sha256(Sha256Hex(bytes.data(), bytes.size()));
  header.set_size_bytes(bytes.size());
  auto upload = AdapterUpload::Begin(
      dir.path(), static_cast<int64_t>(bytes.size()), header);
  ASSERT_THAT(upload, IsOk());
  ASSERT_THAT((*upload)->Append(bytes), IsOk());
  EXPECT_THAT((*upload)->Commit(*store, absl::ZeroDuration()), IsOk());
}

class OneLoaderTest : public UploadTest {
 protected:
  OneLoaderTest()
      : UploadTest([](DaemonOptions& options) { options.loader_threads = 1; }) {
  }
};

// Loads that take long: they keep out neither other loads nor the bytes of
// other uploads.
TEST_F(OneLoaderTest, CommitsKeepNoLoaderBusy) {
  daemon_.adapter_dir().Write("pen.safetensors", TinyLoraFile(1));
  daemon_.engine().Block(FakeEngine::Call::kPrepare);
  const auto upload = [this](const std::string& name, int variant) {
    const std::string bytes = TinyLoraFile(variant);
    v1::UploadAdapterRequest header = HeaderOf(bytes);
    header.mutable_header()->set_name(name);
    const auto stub = v1::AdapterService::NewStub(daemon_.NewChannel());
    v1::LoadAdapterResponse response;
    EXPECT_TRUE(Send(*stub, {header, Data(bytes)}, response).ok());
  };
  std::thread first([&] { upload("first", 2); });
  EXPECT_TRUE(daemon_.engine().WaitUntilBlocked(FakeEngine::Call::kPrepare));
  std::thread second([&] { upload("second", 3); });
  GraftClient client(
      {.server = daemon_.address(), .timeout = absl::Seconds(30)});
  v1::LoadAdapterRequest check;
  check.set_path("pen.safetensors");
  check.set_validate_only(true);
  EXPECT_THAT(client.LoadAdapter(check), IsOk());
  // And one more of what is not complete: its error comes with its first bytes.
  const std::string bytes = TinyLoraFile();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(30));
  const auto writer = stub_->UploadAdapter(&context, &response_);
  writer->Write(HeaderOf(bytes));
  writer->Write(Data(bytes + "x"));
  EXPECT_EQ(ReasonOf(writer->Finish()), "ADAPTER_CORRUPT");
  daemon_.engine().Unblock(FakeEngine::Call::kPrepare);
  first.join();
  second.join();
}

// What is complete is an accepted load.
TEST_F(UploadTest, DaemonStopsWhileAnUploadIsLoaded) {
  daemon_.engine().Block(FakeEngine::Call::kPrepare);
  const std::string bytes = TinyLoraFile();
  std::thread client([&] {
    const grpc::Status status = Send({HeaderOf(bytes), Data(bytes)});
    EXPECT_TRUE(status.ok()) << status.error_message();
  });
  EXPECT_TRUE(daemon_.engine().WaitUntilBlocked(FakeEngine::Call::kPrepare));
  daemon_.daemon().RequestStop();
  daemon_.engine().Unblock(FakeEngine::Call::kPrepare);
  daemon_.Stop();
  client.join();
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
}

class FullHostTest : public UploadTest {
 protected:
  FullHostTest()
      : UploadTest([](DaemonOptions& options) {
          // Of two files that nothing unloads.
          options.max_adapter_host_bytes =
              static_cast<int64_t>(TinyLoraFile().size() * 3 / 2);
        }) {}
};

TEST_F(FullHostTest, WhatDoesNotFitLeavesTheDirectoryAsItWas) {
  const std::string first = TinyLoraFile(1);
  const std::string second = TinyLoraFile(2);
  ASSERT_TRUE(Send({HeaderOf(first), Data(first)}).ok());
  GraftClient client({.server = daemon_.address()});
  v1::UpdateAdapterRequest pin;
  pin.mutable_adapter()->set_name("ink");
  pin.mutable_adapter()->set_pinned(true);
  pin.mutable_update_mask()->add_paths("pinned");
  ASSERT_TRUE(client.UpdateAdapter(pin).ok());
  v1::UploadAdapterRequest header = HeaderOf(second);
  header.mutable_header()->set_name("pen");
  EXPECT_EQ(ReasonOf(Send({header, Data(second)})), "ADAPTER_CACHE_FULL");
  header.mutable_header()->set_name("ink");
  header.mutable_header()->set_allow_replace(true);
  EXPECT_EQ(ReasonOf(Send({header, Data(second)})), "ADAPTER_CACHE_FULL");
  EXPECT_THAT(Files(), ElementsAre("ink.safetensors"));
  EXPECT_EQ(ReadFile("ink.safetensors"), first);
}

class SilentUploadTest : public UploadTest {
 protected:
  SilentUploadTest()
      : UploadTest([](DaemonOptions& options) {
          options.transport.write_timeout = absl::Milliseconds(200);
        }) {}
};

// As many as may run, and more: without a header they take no place, with one
// they are cut off.
TEST_F(SilentUploadTest, SilentStreamsKeepNobodyOut) {
  constexpr int kStreams = 2 * AdapterServiceImpl::kMaxUploads;
  struct Stream {
    grpc::ClientContext context;
    v1::LoadAdapterResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::UploadAdapterRequest>> writer;
  };
  const std::string bytes = TinyLoraFile();
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < kStreams; ++i) {
    auto stream = std::make_unique<Stream>();
    stream->writer = stub_->UploadAdapter(&stream->context, &stream->response);
    if (i % 2 == 0) {
      EXPECT_TRUE(stream->writer->Write(HeaderOf(bytes)));
    }
    streams.push_back(std::move(stream));
  }
  for (const auto& stream : streams) {
    EXPECT_EQ(stream->writer->Finish().error_code(),
              grpc::StatusCode::CANCELLED);
  }
  const grpc::Status status = Send({HeaderOf(bytes), Data(bytes)});
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(UploadTest, StreamsWithoutHeaderTakeNoPlace) {
  grpc::ClientContext contexts[2 * AdapterServiceImpl::kMaxUploads];
  v1::LoadAdapterResponse response;
  std::vector<std::unique_ptr<grpc::ClientWriter<v1::UploadAdapterRequest>>>
      writers;
  for (grpc::ClientContext& context : contexts) {
    writers.push_back(stub_->UploadAdapter(&context, &response));
  }
  const std::string bytes = TinyLoraFile();
  EXPECT_TRUE(Send({HeaderOf(bytes), Data(bytes)}).ok());
  for (grpc::ClientContext& context : contexts) context.TryCancel();
  for (const auto& writer : writers) EXPECT_FALSE(writer->Finish().ok());
}

TEST(UploadLeftoversTest, ThoseOfARunningUploadStay) {
  const TempDir dir;
  const std::string running = dir.Write(".upload-1.safetensors", "half");
  dir.Write(".upload-2.safetensors", "half");
  const FileDescriptor file(open(running.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(flock(file.get(), LOCK_EX), 0);
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.adapter_dir = dir.path(); });
  EXPECT_TRUE(std::filesystem::exists(running));
  EXPECT_FALSE(std::filesystem::exists(dir.File(".upload-2.safetensors")));
}

// A second daemon that starts on the same folder.
TEST_F(UploadTest, RunningUploadSurvivesAnotherDaemonsStart) {
  const std::string bytes = TinyLoraFile();
  grpc::ClientContext context;
  const auto writer = stub_->UploadAdapter(&context, &response_);
  ASSERT_TRUE(writer->Write(HeaderOf(bytes)));
  while (Files().empty()) continue;
  {
    InProcessDaemon other([&](DaemonOptions& options) {
      options.adapter_dir = daemon_.adapter_dir().path();
    });
  }
  EXPECT_TRUE(writer->Write(Data(bytes)));
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(UploadLeftoversTest, AreRemovedAtTheStart) {
  const TempDir dir;
  dir.Write(".upload-1.safetensors", "half");
  dir.Write("ink.safetensors", "kept");
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.adapter_dir = dir.path(); });
  EXPECT_FALSE(std::filesystem::exists(dir.File(".upload-1.safetensors")));
  EXPECT_TRUE(std::filesystem::exists(dir.File("ink.safetensors")));
}

TEST(UploadToAReadOnlyDirectoryTest, IsRefused) {
  // It takes no files, whoever asks.
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.adapter_dir = "/sys"; });
  const TempDir dir;
  GraftClient client({.server = daemon.address()});
  v1::UploadAdapterHeader header;
  header.set_name("ink");
  EXPECT_EQ(
      ErrorReasonOf(client.UploadAdapter(header, dir.Write("a", TinyLoraFile()))
                        .status()),
      "ADAPTER_DIR_READ_ONLY");
}

TEST(UploadWithoutDirectoryTest, IsRefused) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.adapter_dir.clear(); });
  const TempDir dir;
  GraftClient client({.server = daemon.address()});
  v1::UploadAdapterHeader header;
  header.set_name("ink");
  EXPECT_EQ(
      ErrorReasonOf(client.UploadAdapter(header, dir.Write("a", TinyLoraFile()))
                        .status()),
      "ADAPTER_DIR_NOT_SET");
}

}  // namespace
}  // namespace graft
