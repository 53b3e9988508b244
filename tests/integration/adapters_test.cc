// AdapterService and AdminService through the whole stack.

#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "graft/v1/admin.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/common/sha256.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class AdaptersTest : public testing::Test {
 protected:
  AdaptersTest()
      : generation_(v1::GenerationService::NewStub(daemon_.NewChannel())),
        adapters_(v1::AdapterService::NewStub(daemon_.NewChannel())),
        admin_(v1::AdminService::NewStub(daemon_.NewChannel())) {}

  grpc::Status Load(const v1::LoadAdapterRequest& request) {
    grpc::ClientContext context;
    loaded_.Clear();
    return adapters_->LoadAdapter(&context, request, &loaded_);
  }

  // Writes `bytes` to `path` below the adapter directory, and loads that.
  grpc::Status WriteAndLoad(const std::string& path, const std::string& bytes) {
    daemon_.adapter_dir().Write(path, bytes);
    v1::LoadAdapterRequest request;
    request.set_path(path);
    return Load(request);
  }

  grpc::Status Unload(const v1::UnloadAdapterRequest& request) {
    grpc::ClientContext context;
    unloaded_.Clear();
    return adapters_->UnloadAdapter(&context, request, &unloaded_);
  }

  static v1::UnloadAdapterRequest Named(const std::string& name) {
    v1::UnloadAdapterRequest request;
    request.set_name(name);
    return request;
  }

  std::vector<std::string> ListPage(uint32_t size, std::string& token) {
    v1::ListAdaptersRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    v1::ListAdaptersResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        adapters_->ListAdapters(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    token = response.next_page_token();
    std::vector<std::string> names;
    for (const v1::Adapter& adapter : response.adapters()) {
      names.push_back(adapter.name());
    }
    return names;
  }

  v1::ServerInfo Info() {
    v1::ServerInfo info;
    grpc::ClientContext context;
    EXPECT_TRUE(
        admin_->GetServerInfo(&context, v1::GetServerInfoRequest(), &info)
            .ok());
    return info;
  }

  grpc::Status Generate(const std::string& adapter) {
    v1::GenerateImageRequest request;
    request.set_steps(1);
    request.add_adapters()->set_name(adapter);
    grpc::ClientContext context;
    const auto reader = generation_->GenerateImage(&context, request);
    v1::GenerateImageResponse event;
    while (reader->Read(&event)) continue;
    return reader->Finish();
  }

  InProcessDaemon daemon_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::AdapterService::Stub> adapters_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
  v1::LoadAdapterResponse loaded_;
  v1::UnloadAdapterResponse unloaded_;
};

TEST_F(AdaptersTest, LoadTellsWhatTheFileIs) {
  ASSERT_TRUE(WriteAndLoad("styles/ink.safetensors", TinyLoraFile()).ok());
  const v1::Adapter& adapter = loaded_.adapter();
  EXPECT_FALSE(loaded_.already_loaded());
  EXPECT_EQ(adapter.name(), "ink");
  EXPECT_EQ(adapter.path(), "styles/ink.safetensors");
  EXPECT_EQ(adapter.state(), v1::Adapter::STATE_ACTIVE);
  EXPECT_THAT(adapter.sha256(), SizeIs(64));
  EXPECT_EQ(adapter.base_model_family(), "SD 1.x");
  EXPECT_EQ(adapter.max_rank(), 2);
  EXPECT_GT(adapter.unet_targets(), 0);
  EXPECT_GT(adapter.text_encoder_targets(), 0);
  EXPECT_EQ(adapter.size_bytes(), static_cast<int64_t>(TinyLoraFile().size()));
  EXPECT_THAT(adapter.algorithms(), testing::Contains("lora"));
  EXPECT_TRUE(adapter.has_load_time());
}

TEST_F(AdaptersTest, LoadIsIdempotentAndOtherContentConflicts) {
  ASSERT_TRUE(WriteAndLoad("ink.safetensors", TinyLoraFile(1)).ok());
  ASSERT_TRUE(WriteAndLoad("ink.safetensors", TinyLoraFile(1)).ok());
  EXPECT_TRUE(loaded_.already_loaded());
  const grpc::Status conflict =
      WriteAndLoad("ink.safetensors", TinyLoraFile(2));
  EXPECT_EQ(conflict.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(ReasonOf(conflict), "ADAPTER_CONFLICT");
}

TEST_F(AdaptersTest, NamesWithSpacesAndUnicodeLoadUnderAnotherName) {
  const grpc::Status refused =
      WriteAndLoad("mes dossiers/été à Paris.safetensors", TinyLoraFile());
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(refused), "INVALID_FIELD");
  v1::LoadAdapterRequest request;
  request.set_path("mes dossiers/été à Paris.safetensors");
  request.set_name("paris");
  ASSERT_TRUE(Load(request).ok());
  EXPECT_EQ(loaded_.adapter().path(), "mes dossiers/été à Paris.safetensors");
}

TEST_F(AdaptersTest, GetAndListShowWhatIsLoaded) {
  std::string token;
  EXPECT_THAT(ListPage(0, token), IsEmpty());
  for (const char* const name : {"b", "a", "c"}) {
    ASSERT_TRUE(
        WriteAndLoad(std::string(name) + ".safetensors", TinyLoraFile()).ok());
  }
  EXPECT_THAT(ListPage(2, token), ElementsAre("a", "b"));
  EXPECT_THAT(ListPage(2, token), ElementsAre("c"));
  EXPECT_THAT(token, IsEmpty());

  v1::GetAdapterRequest request;
  request.set_name("b");
  v1::Adapter adapter;
  grpc::ClientContext context;
  ASSERT_TRUE(adapters_->GetAdapter(&context, request, &adapter).ok());
  EXPECT_EQ(adapter.name(), "b");
}

TEST_F(AdaptersTest, ForeignPageTokenIsRefused) {
  v1::ListAdaptersRequest request;
  request.set_page_token("not one of ours!");
  v1::ListAdaptersResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(adapters_->ListAdapters(&context, request, &response)),
            "INVALID_FIELD");
}

TEST_F(AdaptersTest, UnloadAnswersWhenTheMemoryIsFree) {
  ASSERT_TRUE(WriteAndLoad("ink.safetensors", TinyLoraFile()).ok());
  const int64_t device_bytes = loaded_.adapter().device_bytes();
  ASSERT_TRUE(Generate("ink").ok());
  EXPECT_THAT(Info().resident(), SizeIs(1));
  EXPECT_EQ(Info().memory().adapter_bytes(), device_bytes);

  ASSERT_TRUE(Unload(Named("ink")).ok());
  EXPECT_EQ(unloaded_.freed_bytes(), device_bytes);
  EXPECT_EQ(unloaded_.sha256(), loaded_.adapter().sha256());
  EXPECT_EQ(Info().memory().adapter_bytes(), 0);
  EXPECT_THAT(Info().resident(), IsEmpty());
  EXPECT_EQ(ReasonOf(Generate("ink")), "ADAPTER_NOT_FOUND");
}

TEST_F(AdaptersTest, UnloadOfAnAdapterInUseWaitsForTheRequest) {
  ASSERT_TRUE(WriteAndLoad("ink.safetensors", TinyLoraFile()).ok());
  daemon_.engine().Block(Call::kStep);
  grpc::Status generated;
  std::thread client([&] { generated = Generate("ink"); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));

  v1::UnloadAdapterRequest impatient = Named("ink");
  impatient.set_only_if_unused(true);
  EXPECT_EQ(ReasonOf(Unload(impatient)), "ADAPTER_IN_USE");

  grpc::Status unloaded;
  std::thread unloader([&] { unloaded = Unload(Named("ink")); });
  v1::GetAdapterRequest get;
  get.set_name("ink");
  v1::Adapter adapter;
  do {  // until the server has heard of it
    grpc::ClientContext context;
    ASSERT_TRUE(adapters_->GetAdapter(&context, get, &adapter).ok());
  } while (adapter.state() != v1::Adapter::STATE_UNLOADING);
  EXPECT_EQ(ReasonOf(Generate("ink")), "ADAPTER_NOT_FOUND");

  daemon_.engine().Unblock(Call::kStep);
  client.join();
  unloader.join();
  EXPECT_TRUE(generated.ok()) << generated.error_message();
  EXPECT_TRUE(unloaded.ok()) << unloaded.error_message();
  EXPECT_EQ(daemon_.engine().live_prepared(), 0);
}

TEST_F(AdaptersTest, UnloadOfWhatIsNotThere) {
  const grpc::Status status = Unload(Named("ink"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonOf(status), "ADAPTER_NOT_FOUND");
  v1::UnloadAdapterRequest lenient = Named("ink");
  lenient.set_allow_missing(true);
  EXPECT_TRUE(Unload(lenient).ok());
  EXPECT_EQ(unloaded_.freed_bytes(), 0);
}

TEST_F(AdaptersTest, WhatIsNoNameIsRefusedEverywhere) {
  v1::GetAdapterRequest get;
  get.set_name("../ink");
  v1::Adapter adapter;
  grpc::ClientContext get_context;
  EXPECT_EQ(ReasonOf(adapters_->GetAdapter(&get_context, get, &adapter)),
            "INVALID_FIELD");
  v1::UnloadAdapterRequest unload = Named("");
  unload.set_allow_missing(true);
  EXPECT_EQ(ReasonOf(Unload(unload)), "INVALID_FIELD");
  v1::UpdateAdapterRequest update;
  update.mutable_adapter()->set_name("an ink");
  update.mutable_update_mask()->add_paths("pinned");
  grpc::ClientContext update_context;
  EXPECT_EQ(
      ReasonOf(adapters_->UpdateAdapter(&update_context, update, &adapter)),
      "INVALID_FIELD");
}

TEST_F(AdaptersTest, DigestMayBeInUpperCase) {
  daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
  v1::LoadAdapterRequest request;
  request.set_path("ink.safetensors");
  request.set_sha256(absl::AsciiStrToUpper(
      Sha256Hex(TinyLoraFile().data(), TinyLoraFile().size())));
  const grpc::Status status = Load(request);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(AdaptersTest, UnknownAdapterIsAResourceThatIsMissing) {
  const grpc::Status status = Generate("nobody");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::ResourceInfo resource;
  bool found = false;
  for (const auto& detail : details.details()) {
    found = found || detail.UnpackTo(&resource);
  }
  ASSERT_TRUE(found);
  EXPECT_EQ(resource.resource_type(), "Adapter");
  EXPECT_EQ(resource.resource_name(), "nobody");
}

TEST_F(AdaptersTest, ServerInfoTellsModelLimitsAndVersions) {
  const v1::ServerInfo info = Info();
  EXPECT_EQ(info.model(), "fake");
  EXPECT_EQ(info.family(), "SD 1.x");
  EXPECT_EQ(info.device(), "cpu");
  EXPECT_EQ(info.dtype(), "float32");
  EXPECT_EQ(info.base_sha256(), daemon_.engine().info().base_sha256);
  EXPECT_EQ(info.limits().max_steps(), 1000u);
  EXPECT_EQ(info.limits().max_prompt_bytes(), 16384u);
  EXPECT_EQ(info.limits().max_adapter_file_bytes(), uint64_t{4} << 30);
  EXPECT_EQ(info.defaults().steps(), 25u);
  EXPECT_EQ(info.defaults().sampler(), "ddim");
  EXPECT_EQ(info.memory().base_bytes(), 1000);
  EXPECT_THAT(info.samplers(),
              ElementsAre("ddim", "euler", "euler_a", "dpmpp_2m"));
  for (const char* const part : {"graft", "torch", "grpc", "protobuf"}) {
    EXPECT_EQ(info.versions().count(part), 1u) << part;
  }
}

}  // namespace
}  // namespace graft
