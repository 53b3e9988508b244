#include "client/graft_client.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <deque>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "client/client_status.h"
#include "client/command_line.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

grpc::Status Unavailable(int retry_seconds) {
  google::rpc::Status details;
  if (retry_seconds > 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_seconds);
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "busy",
                      details.SerializeAsString());
}

// Answers with what the test put in, one after the other; then with OK.
class ScriptedAdmin : public v1::AdminService::Service {
 public:
  grpc::Status GetServerInfo(grpc::ServerContext* context,
                             const v1::GetServerInfoRequest*,
                             v1::ServerInfo* response) override {
    ++calls;
    had_deadline =
        context->deadline() != std::chrono::system_clock::time_point::max();
    if (answers.empty()) {
      response->set_model("scripted");
      return grpc::Status::OK;
    }
    const grpc::Status status = answers.front();
    answers.pop_front();
    return status;
  }

  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainRequest*,
                     grpc::ServerWriter<v1::DrainResponse>*) override {
    deadline = context->deadline();
    return grpc::Status::OK;
  }

  std::deque<grpc::Status> answers;
  int calls = 0;
  bool had_deadline = false;
  std::chrono::system_clock::time_point deadline;
};

class ScriptedGeneration : public v1::GenerationService::Service {
 public:
  grpc::Status GenerateImage(
      grpc::ServerContext*, const v1::GenerateImageRequest*,
      grpc::ServerWriter<v1::GenerateImageResponse>* writer) override {
    for (const v1::GenerateImageResponse& event : events) writer->Write(event);
    if (answers.empty()) return grpc::Status::OK;
    const grpc::Status status = answers.front();
    answers.pop_front();
    return status;
  }

  std::vector<v1::GenerateImageResponse> events;
  std::deque<grpc::Status> answers;
};

// Two adapters, one a page.
class ScriptedAdapters : public v1::AdapterService::Service {
 public:
  grpc::Status ListAdapters(grpc::ServerContext*,
                            const v1::ListAdaptersRequest* request,
                            v1::ListAdaptersResponse* response) override {
    const bool first = request->page_token().empty();
    response->add_adapters()->set_name(first ? "a" : "b");
    if (first) response->set_next_page_token("more");
    return grpc::Status::OK;
  }
};

class GraftClientTest : public testing::Test {
 protected:
  GraftClientTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&admin_);
    builder.RegisterService(&generation_);
    builder.RegisterService(&adapters_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }

  GraftClient Client(int retries = 0) {
    return GraftClient({.server = address_,
                        .timeout = absl::Seconds(60),
                        .retries = retries,
                        .sleep = [this](absl::Duration duration) {
                          slept_.push_back(duration);
                        }});
  }

  static v1::GenerateImageResponse Chunk(uint32_t image,
                                         const std::string& data, bool last,
                                         uint64_t total) {
    v1::GenerateImageResponse event;
    event.mutable_image()->set_image_index(image);
    event.mutable_image()->set_data(data);
    event.mutable_image()->set_last(last);
    event.mutable_image()->set_total_bytes(total);
    return event;
  }

  absl::StatusOr<GraftClient::Generated> Generate(int retries = 0) {
    return Client(retries).Generate(
        v1::GenerateImageRequest(),
        [this](const v1::GenerateImageResponse&) { ++events_seen_; });
  }

  ScriptedAdmin admin_;
  ScriptedGeneration generation_;
  ScriptedAdapters adapters_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::vector<absl::Duration> slept_;
  int events_seen_ = 0;
};

TEST_F(GraftClientTest, EveryCallHasADeadline) {
  ASSERT_TRUE(Client().GetServerInfo().ok());
  EXPECT_TRUE(admin_.had_deadline);
}

// Else the client would give up before the server answers what is left.
TEST_F(GraftClientTest, DrainMayTakeAsLongAsItIsToWait) {
  const auto drain_until = [this](uint32_t wait_ms) {
    v1::DrainRequest request;
    request.set_timeout_ms(wait_ms);
    EXPECT_TRUE(Client().Drain(request, [](uint32_t) {}).ok());
    return admin_.deadline;
  };
  const auto now = std::chrono::system_clock::now();
  EXPECT_GT(drain_until(7'200'000), now + std::chrono::hours(2));
  // The client's own is 60 seconds.
  EXPECT_LT(drain_until(1), now + std::chrono::hours(1));
  EXPECT_GT(drain_until(0), now);
}

TEST_F(GraftClientTest, DoesNotTryAgainUnlessTold) {
  admin_.answers = {Unavailable(0)};
  EXPECT_EQ(Client().GetServerInfo().status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(admin_.calls, 1);
  EXPECT_THAT(slept_, IsEmpty());
}

TEST_F(GraftClientTest, TriesAgainAfterWhatTheServerAsksForOrTwiceAsLong) {
  admin_.answers = {Unavailable(0), Unavailable(7), Unavailable(0)};
  const auto info = Client(/*retries=*/3).GetServerInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->model(), "scripted");
  EXPECT_THAT(slept_, ElementsAre(absl::Seconds(1), absl::Seconds(7),
                                  absl::Seconds(4)));
}

TEST_F(GraftClientTest, GivesUpAfterTheTriesItWasTold) {
  admin_.answers = {Unavailable(0), Unavailable(0), Unavailable(0)};
  EXPECT_FALSE(Client(/*retries=*/2).GetServerInfo().ok());
  EXPECT_EQ(admin_.calls, 3);
}

// The wait would be longer than what is left of the time.
TEST_F(GraftClientTest, DoesNotWaitBeyondItsTimeout) {
  admin_.answers = {Unavailable(61), Unavailable(0)};
  EXPECT_EQ(Client(/*retries=*/5).GetServerInfo().status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(admin_.calls, 1);
  EXPECT_THAT(slept_, IsEmpty());
}

TEST_F(GraftClientTest, OtherErrorsAreNotTriedAgain) {
  admin_.answers = {grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "no")};
  EXPECT_FALSE(Client(/*retries=*/5).GetServerInfo().ok());
  EXPECT_EQ(admin_.calls, 1);
}

TEST_F(GraftClientTest, PutsImagesTogether) {
  generation_.events = {Chunk(0, "ab", false, 3), Chunk(0, "c", true, 3),
                        Chunk(1, "d", true, 1)};
  const auto generated = Generate();
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_THAT(generated->images, ElementsAre("abc", "d"));
  EXPECT_EQ(events_seen_, 3);
}

TEST_F(GraftClientTest, TryingAgainStartsFromTheBeginning) {
  generation_.events = {Chunk(0, "a", true, 1)};
  generation_.answers = {Unavailable(0)};
  const auto generated = Generate(/*retries=*/1);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_THAT(generated->images, ElementsAre("a"));
}

TEST_F(GraftClientTest, ImageWithAHoleIsAnError) {
  generation_.events = {Chunk(0, "ab", true, 3)};
  EXPECT_EQ(Generate().status().code(), absl::StatusCode::kDataLoss);
  generation_.events = {Chunk(1, "ab", true, 2)};
  EXPECT_EQ(Generate().status().code(), absl::StatusCode::kDataLoss);
}

// Of the command: after minutes of work the image counts.
TEST_F(GraftClientTest, PreviewThatCannotBeWrittenDoesNotCostTheImage) {
  v1::GenerateImageResponse preview;
  preview.mutable_preview()->set_png("rough");
  generation_.events = {preview, Chunk(0, "fine", true, 4)};
  const TempDir dir;
  dir.Write("a.preview.png/in the way", "");
  const std::string file = dir.File("a.png");
  const char* const argv[] = {"graft",     "--server", address_.c_str(),
                              "generate",  "a star",   "--out",
                              file.c_str()};
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(RunCommandLine(7, argv, Console{out, err}), 1);
  EXPECT_THAT(err.str(), HasSubstr("a.preview.png"));
  EXPECT_THAT(out.str(), HasSubstr(file));
  std::string saved;
  std::getline(std::ifstream(file), saved);
  EXPECT_EQ(saved, "fine");
}

TEST_F(GraftClientTest, ListsAllPages) {
  const auto adapters = Client().ListAdapters();
  ASSERT_TRUE(adapters.ok());
  ASSERT_THAT(*adapters, SizeIs(2));
  EXPECT_EQ((*adapters)[1].name(), "b");
}

TEST_F(GraftClientTest, NobodyThereIsUnavailable) {
  server_->Shutdown();
  const absl::Status status = Client().GetServerInfo().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is graftd running"));
}

}  // namespace
}  // namespace graft
