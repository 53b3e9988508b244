// Bad input through real gRPC: each gets its own clear error and code, and the
// daemon serves the next request as if nothing had been.

#include <grpcpp/client_context.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

class BadInputTest : public testing::Test {
 protected:
  BadInputTest()
      : channel_(daemon_.NewChannel()),
        generation_(v1::GenerationService::NewStub(channel_)),
        adapters_(v1::AdapterService::NewStub(channel_)) {
    golden_ = Picture(Request());
  }

  // Whatever the test sent: the next request gives the picture of the first.
  void TearDown() override {
    EXPECT_EQ(Picture(Request()), golden_);
    EXPECT_EQ(daemon_.engine().resident(), FakeSet{});
  }

  static v1::GenerateImageRequest Request() {
    v1::GenerateImageRequest request;
    request.set_prompt("a star");
    request.set_steps(2);
    request.set_seed(1);
    return request;
  }

  grpc::Status Generate(const v1::GenerateImageRequest& request,
                        std::string* image = nullptr) {
    grpc::ClientContext context;
    const auto reader = generation_->GenerateImage(&context, request);
    v1::GenerateImageResponse event;
    while (reader->Read(&event)) {
      if (image != nullptr) *image += event.image().data();
    }
    return reader->Finish();
  }

  std::string Picture(const v1::GenerateImageRequest& request) {
    std::string image;
    const grpc::Status status = Generate(request, &image);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return image;
  }

  void ExpectRefused(
      const std::function<void(v1::GenerateImageRequest&)>& change,
      const std::string& message) {
    v1::GenerateImageRequest request = Request();
    change(request);
    ExpectError(Generate(request), StatusCode::INVALID_ARGUMENT,
                "INVALID_FIELD", message);
  }

  static void ExpectError(const grpc::Status& status, StatusCode code,
                          const std::string& reason,
                          const std::string& message) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(ReasonOf(status), reason) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(message));
  }

  grpc::Status Load(const std::string& path, const std::string& name = "bad") {
    v1::LoadAdapterRequest request;
    request.set_path(path);
    request.set_name(name);
    v1::LoadAdapterResponse response;
    grpc::ClientContext context;
    return adapters_->LoadAdapter(&context, request, &response);
  }

  grpc::Status WriteAndLoad(const std::string& bytes) {
    daemon_.adapter_dir().Write("bad.safetensors", bytes);
    return Load("bad.safetensors");
  }

  InProcessDaemon daemon_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::AdapterService::Stub> adapters_;
  std::string golden_;
};

TEST_F(BadInputTest, UnknownAdapter) {
  v1::GenerateImageRequest request = Request();
  request.add_adapters()->set_name("nobody");
  ExpectError(Generate(request), StatusCode::NOT_FOUND, "ADAPTER_NOT_FOUND",
              "nobody");
}

TEST_F(BadInputTest, OneBadAmongGoodAdapters) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  ASSERT_TRUE(Load("ink.safetensors", "ink").ok());
  v1::GenerateImageRequest request = Request();
  request.add_adapters()->set_name("ink");
  request.add_adapters()->set_name("nobody");
  ExpectError(Generate(request), StatusCode::NOT_FOUND, "ADAPTER_NOT_FOUND",
              "nobody");
  EXPECT_TRUE(daemon_.engine().switches().empty());
}

TEST_F(BadInputTest, AnotherVersionOfAnAdapter) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  ASSERT_TRUE(Load("ink.safetensors", "ink").ok());
  v1::GenerateImageRequest request = Request();
  request.add_adapters()->set_name("ink");
  request.mutable_adapters(0)->set_sha256(std::string(64, '0'));
  ExpectError(Generate(request), StatusCode::ABORTED,
              "ADAPTER_VERSION_MISMATCH", "ink");
}

TEST_F(BadInputTest, FileOutsideTheAdapterDirectory) {
  ExpectError(Load("../secret.safetensors"), StatusCode::PERMISSION_DENIED,
              "PATH_NOT_ALLOWED", "path");
  ExpectError(Load("/etc/passwd"), StatusCode::PERMISSION_DENIED,
              "PATH_NOT_ALLOWED", "path");
}

TEST_F(BadInputTest, FileOutsideTheAdapterDirectoryByLink) {
  const TempDir outside;
  outside.Write("secret.safetensors", TinyLoraFile());
  std::filesystem::create_symlink(outside.File("secret.safetensors"),
                                  daemon_.adapter_dir().File("a.safetensors"));
  std::filesystem::create_directory_symlink(
      outside.path(), daemon_.adapter_dir().File("folder"));
  ExpectError(Load("a.safetensors"), StatusCode::PERMISSION_DENIED,
              "PATH_NOT_ALLOWED", "");
  ExpectError(Load("folder/secret.safetensors"), StatusCode::PERMISSION_DENIED,
              "PATH_NOT_ALLOWED", "");
}

TEST_F(BadInputTest, MissingFile) {
  ExpectError(Load("nothing.safetensors"), StatusCode::NOT_FOUND,
              "ADAPTER_NOT_FOUND", "nothing.safetensors");
}

TEST_F(BadInputTest, Pickle) {
  daemon_.adapter_dir().Write("bad.ckpt", "\x80\x02}q\x01.");
  ExpectError(Load("bad.ckpt"), StatusCode::FAILED_PRECONDITION,
              "ADAPTER_CORRUPT", "safetensors");
  ExpectError(WriteAndLoad("\x80\x02}q\x01."), StatusCode::FAILED_PRECONDITION,
              "ADAPTER_CORRUPT", "");
}

TEST_F(BadInputTest, TruncatedFile) {
  const std::string whole = TinyLoraFile();
  for (const size_t size :
       {size_t{0}, size_t{7}, size_t{100}, whole.size() - 1}) {
    ExpectError(WriteAndLoad(whole.substr(0, size)),
                StatusCode::FAILED_PRECONDITION, "ADAPTER_CORRUPT", "");
  }
}

TEST_F(BadInputTest, ShapeThatDoesNotFit) {
  ExpectError(
      WriteAndLoad(
          AdapterFileBuilder()
              .AddKohyaPair("lora_unet_down_blocks_0_attentions_0_transformer_"
                            "blocks_0_attn1_to_q",
                            {2, 9}, {8, 2})
              .Build()),
      StatusCode::FAILED_PRECONDITION, "ADAPTER_BASE_MISMATCH", "found [2, 9]");
}

TEST_F(BadInputTest, KeyThatFitsNoModule) {
  ExpectError(
      WriteAndLoad(AdapterFileBuilder()
                       .AddKohyaPair("lora_unet_nowhere", {2, 8}, {8, 2})
                       .Build()),
      StatusCode::FAILED_PRECONDITION, "ADAPTER_KEYS_UNMATCHED", "nowhere");
}

TEST_F(BadInputTest, NanInside) {
  ExpectError(
      WriteAndLoad(
          AdapterFileBuilder()
              .Add("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
                   "attn1_to_q.lora_down.weight",
                   TensorDtype::kF32, {2, 8},
                   {0.5, std::numeric_limits<double>::quiet_NaN()})
              .Add("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
                   "attn1_to_q.lora_up.weight",
                   TensorDtype::kF32, {8, 2})
              .Build()),
      StatusCode::FAILED_PRECONDITION, "ADAPTER_NON_FINITE", "attn1_to_q");
}

TEST_F(BadInputTest, SizeNotDivisibleByEight) {
  ExpectRefused([](auto& request) { request.set_width(100); },
                "a multiple of 8");
}

TEST_F(BadInputTest, NoSteps) {
  ExpectRefused([](auto& request) { request.set_steps(0); },
                "steps: must be between 1 and 1000, not 0");
}

TEST_F(BadInputTest, PromptOfOneMegabyte) {
  ExpectRefused(
      [](auto& request) { request.set_prompt(std::string(1 << 20, 'a')); },
      "1048576 bytes; at most 16384");
}

TEST_F(BadInputTest, GuidanceThatIsNoNumber) {
  ExpectRefused([](auto& request) { request.set_guidance_scale(NAN); },
                "guidance_scale");
}

TEST_F(BadInputTest, RequestIdWithControlCharacters) {
  ExpectRefused([](auto& request) { request.set_request_id("a\nb"); },
                "printable");
}

// Protobuf's C++ sends it all the same, and the server's cannot take it apart.
TEST_F(BadInputTest, TextThatIsNoUtf8) {
  ExpectRefused([](auto& request) { request.set_prompt("caf\xE9"); }, "UTF-8");
  v1::GetAdapterRequest request;
  request.set_name("\xFF");
  grpc::ClientContext context;
  v1::Adapter response;
  ExpectError(adapters_->GetAdapter(&context, request, &response),
              StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "UTF-8");
}

// gRPC itself answers; no such message is ever taken apart.
TEST_F(BadInputTest, MessageOfFiveMegabytes) {
  v1::GenerateImageRequest request = Request();
  request.set_prompt(std::string(5 << 20, 'a'));
  EXPECT_EQ(Generate(request).error_code(), StatusCode::RESOURCE_EXHAUSTED);
}

// A megabyte of zeros is a kilobyte on the wire: gRPC would inflate a gigabyte
// before it looks at the size.
TEST_F(BadInputTest, CompressedRequest) {
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::GenerateImageRequest request = Request();
  request.set_prompt(std::string(10000, 'a'));
  const auto reader = generation_->GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNIMPLEMENTED);
}

TEST(NoAdapterDirTest, LoadSaysWhatIsMissing) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.adapter_dir.clear(); });
  const auto stub = v1::AdapterService::NewStub(daemon.NewChannel());
  v1::LoadAdapterRequest request;
  request.set_path("ink.safetensors");
  v1::LoadAdapterResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub->LoadAdapter(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(status), "ADAPTER_DIR_NOT_SET");
}

TEST(AdapterTooLargeTest, FileAboveTheLimit) {
  InProcessDaemon daemon([](DaemonOptions& options) {
    options.limits.max_adapter_file_bytes = 100;
  });
  daemon.adapter_dir().Write("big.safetensors", TinyLoraFile());
  const auto stub = v1::AdapterService::NewStub(daemon.NewChannel());
  v1::LoadAdapterRequest request;
  request.set_path("big.safetensors");
  v1::LoadAdapterResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub->LoadAdapter(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(status), "ADAPTER_TOO_LARGE");
}

}  // namespace
}  // namespace graft
