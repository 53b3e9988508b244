// GenerateImage through the whole stack: real gRPC, real scheduler, real
// adapter store, fake engine.

#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/image/png_encoder.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;
using testing::StartsWith;

// What one call gave.
struct Answer {
  grpc::Status status;
  std::vector<std::string> images;
  std::vector<std::string> kinds;  // of the events, repeated ones once
  std::string request_id;
  v1::Finished finished;
};

class GenerateTest : public testing::Test {
 protected:
  GenerateTest()
      : generation_(v1::GenerationService::NewStub(daemon_.NewChannel())),
        adapters_(v1::AdapterService::NewStub(daemon_.NewChannel())) {}

  static v1::GenerateImageRequest Request() {
    v1::GenerateImageRequest request;
    request.set_prompt("a star");
    request.set_width(64);
    request.set_height(72);
    request.set_steps(3);
    request.set_seed(7);
    return request;
  }

  static Answer ReadAll(grpc::ClientReader<v1::GenerateImageResponse>& reader) {
    Answer answer;
    v1::GenerateImageResponse event;
    while (reader.Read(&event)) {
      const std::string kind(
          v1::GenerateImageResponse::descriptor()
              ->FindFieldByNumber(static_cast<int>(event.event_case()))
              ->name());
      if (answer.kinds.empty() || answer.kinds.back() != kind) {
        answer.kinds.push_back(kind);
      }
      answer.request_id = event.request_id();
      if (event.has_image()) {
        answer.images.resize(event.image().image_index() + 1);
        answer.images.back() += event.image().data();
      }
      if (event.has_finished()) answer.finished = event.finished();
    }
    answer.status = reader.Finish();
    return answer;
  }

  Answer Generate(const v1::GenerateImageRequest& request) {
    grpc::ClientContext context;
    return ReadAll(*generation_->GenerateImage(&context, request));
  }

  // Loads an adapter with content of its own; its digest.
  std::string Load(const std::string& name, int variant) {
    daemon_.adapter_dir().Write(name + ".safetensors", TinyLoraFile(variant));
    v1::LoadAdapterRequest request;
    request.set_path(name + ".safetensors");
    v1::LoadAdapterResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        adapters_->LoadAdapter(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.adapter().sha256();
  }

  // Whether there was something to cancel.
  bool Cancel(const std::string& request_id) {
    v1::CancelGenerationRequest request;
    request.set_request_id(request_id);
    v1::CancelGenerationResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        generation_->CancelGeneration(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.was_running();
  }

  // Something that the server does at once.
  void RoundTrip() {
    v1::ListAdaptersResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(
        adapters_->ListAdapters(&context, v1::ListAdaptersRequest(), &response)
            .ok());
  }

  // The picture that `request` must give with `set`, whatever ran before, in a
  // file without text chunks.
  static std::string Expected(const v1::GenerateImageRequest& request,
                              const FakeSet& set) {
    GenerationParams params;
    params.prompt = request.prompt();
    params.negative_prompt = request.negative_prompt();
    params.width = static_cast<int>(request.width());
    params.height = static_cast<int>(request.height());
    params.steps = static_cast<int>(request.steps());
    params.seed = request.seed();
    return *EncodePng(FakeEngine::ExpectedImage(params, set), {});
  }

  // The image data of a PNG file: what is left without the text chunks.
  static std::string Pixels(const std::string& png) {
    return png.substr(png.rfind("IDAT"));
  }

  InProcessDaemon daemon_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::AdapterService::Stub> adapters_;
};

TEST_F(GenerateTest, StreamsTheWholeLifeOfARequest) {
  v1::GenerateImageRequest request = Request();
  request.set_request_id("my-request");
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.kinds.front(), "queued");
  EXPECT_EQ(answer.kinds.back(), "finished");
  EXPECT_EQ(answer.request_id, "my-request");
  EXPECT_THAT(answer.finished.seeds(), ElementsAre(7));
  EXPECT_EQ(answer.finished.base_sha256(), daemon_.engine().info().base_sha256);
  ASSERT_THAT(answer.images, SizeIs(1));
  EXPECT_EQ(Pixels(answer.images[0]), Pixels(Expected(request, {})));
}

TEST_F(GenerateTest, SendsPreviewsToThoseWhoAsk) {
  v1::GenerateImageRequest request = Request();
  EXPECT_THAT(Generate(request).kinds, Not(Contains("preview")));

  request.set_preview_interval(2);
  daemon_.engine().Block(Call::kFinish);
  grpc::ClientContext context;
  const auto reader = generation_->GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  while (!event.has_preview()) ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.preview().step(), 2u);
  EXPECT_EQ(event.preview().steps(), 3u);
  EXPECT_THAT(event.preview().png(), StartsWith("\x89PNG"));
  daemon_.engine().Unblock(Call::kFinish);
  EXPECT_TRUE(ReadAll(*reader).status.ok());
}

TEST_F(GenerateTest, RequestWithoutIdGetsOne) {
  EXPECT_THAT(Generate(Request()).request_id, SizeIs(36));
}

TEST_F(GenerateTest, RequestWithoutSeedGetsOneThatReproducesIt) {
  v1::GenerateImageRequest request = Request();
  request.clear_seed();
  const Answer random = Generate(request);
  ASSERT_TRUE(random.status.ok());
  request.set_seed(random.finished.seeds(0));
  EXPECT_THAT(Generate(request).images, ElementsAre(random.images[0]));
}

// Promise 7: the file, text chunks included.
TEST_F(GenerateTest, SameRequestGivesTheSameFileWhateverRanBefore) {
  Load("ink", 1);
  const Answer first = Generate(Request());
  v1::GenerateImageRequest other = Request();
  other.add_adapters()->set_name("ink");
  ASSERT_TRUE(Generate(other).status.ok());
  v1::GenerateImageRequest again = Request();
  again.set_request_id("another id");
  EXPECT_THAT(Generate(again).images, ElementsAre(first.images[0]));
}

TEST_F(GenerateTest, EachOfSeveralImagesIsTheSingleRequests) {
  v1::GenerateImageRequest request = Request();
  request.set_count(3);
  const Answer batch = Generate(request);
  ASSERT_TRUE(batch.status.ok());
  EXPECT_THAT(batch.finished.seeds(), ElementsAre(7, 8, 9));
  ASSERT_THAT(batch.images, SizeIs(3));
  request.set_count(1);
  for (uint64_t i = 0; i < 3; ++i) {
    request.set_seed(7 + i);
    EXPECT_THAT(Generate(request).images, ElementsAre(batch.images[i]));
  }
}

TEST_F(GenerateTest, LargeImageArrivesWhole) {
  v1::GenerateImageRequest request = Request();
  request.set_width(2048);
  request.set_height(2048);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(Pixels(answer.images[0]), Pixels(Expected(request, {})));
}

TEST_F(GenerateTest, AnswerTellsTheAdaptersAsApplied) {
  const std::string ink = Load("ink", 1);
  const std::string night = Load("night", 2);
  v1::GenerateImageRequest request = Request();
  request.add_adapters()->set_name("night");
  request.mutable_adapters(0)->set_weight(0.8f);
  request.add_adapters()->set_name("ink");
  request.mutable_adapters(1)->set_sha256(ink);
  request.mutable_adapters(1)->set_text_encoder_weight(0.5f);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_THAT(answer.finished.adapters(), SizeIs(2));
  EXPECT_EQ(answer.finished.adapters(0).name(), "night");
  EXPECT_EQ(answer.finished.adapters(0).sha256(), night);
  EXPECT_EQ(answer.finished.adapters(0).weight(), 0.8f);
  EXPECT_EQ(answer.finished.adapters(0).text_encoder_weight(), 0.8f);
  EXPECT_EQ(answer.finished.adapters(1).weight(), 1.0f);
  EXPECT_EQ(answer.finished.adapters(1).text_encoder_weight(), 0.5f);
  EXPECT_EQ(Pixels(answer.images[0]),
            Pixels(Expected(request, {{night, 0.8, 0.8}, {ink, 1.0, 0.5}})));
  EXPECT_THAT(answer.images[0], HasSubstr(ink));
  EXPECT_THAT(answer.images[0], HasSubstr(night));
}

TEST_F(GenerateTest, ScheduleOverAllStepsIsNoSchedule) {
  const std::string ink = Load("ink", 1);
  v1::GenerateImageRequest request = Request();
  request.add_adapters()->set_name("ink");
  const Answer throughout = Generate(request);
  v1::WeightRange& range = *request.mutable_adapters(0)->add_schedule();
  range.set_to(1);
  const Answer scheduled = Generate(request);
  ASSERT_TRUE(scheduled.status.ok()) << scheduled.status.error_message();
  EXPECT_EQ(Pixels(scheduled.images[0]), Pixels(throughout.images[0]));
  EXPECT_EQ(Pixels(scheduled.images[0]),
            Pixels(Expected(request, {{ink, 1.0, 1.0}})));
}

TEST_F(GenerateTest, ScheduledAdapterIsMergedInItsStepsOnly) {
  const std::string ink = Load("ink", 1);
  v1::GenerateImageRequest request = Request();
  request.set_steps(4);
  request.add_adapters()->set_name("ink");
  v1::WeightRange& range = *request.mutable_adapters(0)->add_schedule();
  range.set_from(0.5f);
  range.set_to(0.75f);
  range.set_weight(0.8f);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(daemon_.engine().switches(),
              ElementsAre(FakeSet{{ink, 0.8, 0.8}}, FakeSet{}));
  EXPECT_NE(Pixels(answer.images[0]), Pixels(Expected(request, {})));
  EXPECT_NE(Pixels(answer.images[0]),
            Pixels(Expected(request, {{ink, 0.8, 0.8}})));
  ASSERT_THAT(answer.finished.adapters(), SizeIs(1));
  ASSERT_THAT(answer.finished.adapters(0).schedule(), SizeIs(1));
  const v1::WeightRange& applied = answer.finished.adapters(0).schedule(0);
  EXPECT_EQ(applied.from(), 0.5f);
  EXPECT_EQ(applied.to(), 0.75f);
  EXPECT_EQ(applied.weight(), 0.8f);
  EXPECT_EQ(applied.text_encoder_weight(), 0.8f);
}

// Many clients at once, each with another adapter: promise 6.
TEST_F(GenerateTest, MixedLoadNeverGivesAnothersAdapter) {
  constexpr int kClients = 8;
  constexpr int kRequests = 6;
  std::vector<std::string> digests;
  for (int i = 0; i < kClients; ++i) {
    digests.push_back(Load("style" + std::to_string(i), i));
  }
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      for (int j = 0; j < kRequests; ++j) {
        v1::GenerateImageRequest request = Request();
        request.set_seed(static_cast<uint64_t>(j));
        FakeSet set;
        if (j % 3 != 2) {  // else the base alone
          request.add_adapters()->set_name("style" + std::to_string(i));
          set.push_back({digests[static_cast<size_t>(i)], 1.0, 1.0});
        }
        const Answer answer = Generate(request);
        ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
        EXPECT_EQ(Pixels(answer.images[0]), Pixels(Expected(request, set)));
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

// Fault 12: the work stops as soon as the server hears of it, and the next
// client is served.
TEST_F(GenerateTest, DisconnectStopsTheWork) {
  v1::GenerateImageRequest request = Request();
  request.set_steps(1000);
  daemon_.engine().Block(Call::kStep);
  {
    grpc::ClientContext context;
    const auto reader = generation_->GenerateImage(&context, request);
    ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
    context.TryCancel();
    EXPECT_EQ(ReadAll(*reader).status.error_code(),
              grpc::StatusCode::CANCELLED);
  }
  // The news travels while the device works: a step for each round trip.
  while (daemon_.engine().live_generations() > 0) {
    daemon_.engine().LetOneThrough(Call::kStep);
    RoundTrip();
  }
  EXPECT_LT(daemon_.engine().calls(Call::kStep), 1000);
  EXPECT_EQ(daemon_.engine().calls(Call::kFinish), 0);
  daemon_.engine().Unblock(Call::kStep);
  EXPECT_TRUE(Generate(Request()).status.ok());
}

TEST_F(GenerateTest, CancelStopsTheWork) {
  v1::GenerateImageRequest request = Request();
  request.set_request_id("mine");
  daemon_.engine().Block(Call::kStep);
  grpc::ClientContext context;
  const auto reader = generation_->GenerateImage(&context, request);
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  EXPECT_TRUE(Cancel("mine"));
  daemon_.engine().Unblock(Call::kStep);
  const Answer answer = ReadAll(*reader);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(ReasonOf(answer.status), "CLIENT_CANCELLED");
  EXPECT_EQ(daemon_.engine().calls(Call::kStep), 1);
  EXPECT_FALSE(Cancel("mine"));
}

TEST_F(GenerateTest, CancelWithoutAnIdIsRefused) {
  v1::CancelGenerationResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(generation_->CancelGeneration(
                &context, v1::CancelGenerationRequest(), &response)),
            "INVALID_FIELD");
}

TEST_F(GenerateTest, SameRequestAgainIsNotComputedAgain) {
  v1::GenerateImageRequest request = Request();
  request.clear_seed();
  request.set_request_id("mine");
  const Answer first = Generate(request);
  const Answer again = Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.images, first.images);
  EXPECT_THAT(again.finished.seeds(), ElementsAre(first.finished.seeds(0)));
  EXPECT_EQ(daemon_.engine().calls(Call::kBegin), 1);
}

TEST_F(GenerateTest, SameRequestJoinsTheRunningOne) {
  v1::GenerateImageRequest request = Request();
  request.set_request_id("mine");
  daemon_.engine().Block(Call::kStep);
  grpc::ClientContext context;
  const auto reader = generation_->GenerateImage(&context, request);
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  grpc::ClientContext other_context;
  const auto other = generation_->GenerateImage(&other_context, request);
  v1::GenerateImageResponse event;
  ASSERT_TRUE(other->Read(&event));  // it has joined
  EXPECT_TRUE(event.has_queued());
  context.TryCancel();  // the other one goes on
  EXPECT_FALSE(ReadAll(*reader).status.ok());
  daemon_.engine().Unblock(Call::kStep);
  const Answer answer = ReadAll(*other);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(Pixels(answer.images[0]), Pixels(Expected(request, {})));
  EXPECT_EQ(daemon_.engine().calls(Call::kBegin), 1);
}

TEST_F(GenerateTest, IdOfAnotherRequestIsRefused) {
  v1::GenerateImageRequest request = Request();
  request.set_request_id("mine");
  ASSERT_TRUE(Generate(request).status.ok());
  request.set_seed(8);
  const Answer other = Generate(request);
  EXPECT_EQ(ReasonOf(other.status), "INVALID_FIELD");
  EXPECT_THAT(other.status.error_message(), HasSubstr("request_id"));
}

TEST_F(GenerateTest, EngineErrorReachesItsClientOnly) {
  daemon_.engine().FailStep(
      1, Error(ErrorReason::kNonFiniteLatents, "the latents are not finite",
               {{"step", "2"}}));
  const Answer failed = Generate(Request());
  EXPECT_EQ(failed.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(ReasonOf(failed.status), "NON_FINITE_LATENTS");
  EXPECT_THAT(failed.images, SizeIs(0));
  daemon_.engine().FailStep(1, absl::OkStatus());
  EXPECT_TRUE(Generate(Request()).status.ok());
}

TEST_F(GenerateTest, TwoNamesOfOneContentAreRefused) {
  Load("ink", 1);
  Load("copy", 1);
  v1::GenerateImageRequest request = Request();
  request.add_adapters()->set_name("ink");
  request.add_adapters()->set_name("copy");
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("same content"));
}

TEST_F(GenerateTest, PassedDeadlineIsRefusedBeforeTheQueue) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() -
                       std::chrono::seconds(1));
  const Answer answer =
      ReadAll(*generation_->GenerateImage(&context, Request()));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(daemon_.engine().calls(Call::kBegin), 0);
}

// The worker is held; the queue of one is taken.
TEST(GenerateQueueTest, FullQueueIsRefusedWithADelay) {
  InProcessDaemon daemon(
      [](DaemonOptions& options) { options.limits.max_queued_requests = 1; });
  const auto stub = v1::GenerationService::NewStub(daemon.NewChannel());
  v1::GenerateImageRequest request;
  request.set_steps(1);
  v1::GenerateImageResponse event;
  daemon.engine().Block(Call::kStep);

  grpc::ClientContext running_context;
  const auto running = stub->GenerateImage(&running_context, request);
  ASSERT_TRUE(daemon.engine().WaitUntilBlocked(Call::kStep));
  grpc::ClientContext waiting_context;
  const auto waiting = stub->GenerateImage(&waiting_context, request);
  ASSERT_TRUE(waiting->Read(&event));
  EXPECT_EQ(event.queued().position(), 1u);

  grpc::ClientContext refused_context;
  const auto refused = stub->GenerateImage(&refused_context, request);
  EXPECT_FALSE(refused->Read(&event));
  const grpc::Status status = refused->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_THAT(status.error_details(), HasSubstr("RetryInfo"));
  daemon.engine().Unblock(Call::kStep);
  while (running->Read(&event)) continue;
  EXPECT_TRUE(running->Finish().ok());
  while (waiting->Read(&event)) continue;
  EXPECT_TRUE(waiting->Finish().ok());
}

}  // namespace
}  // namespace graft
