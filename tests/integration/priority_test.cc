// GenerateImageRequest.priority through the whole stack.

#include <grpcpp/client_context.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;

// A GenerateImage call.
class Generating {
 public:
  Generating(v1::GenerationService::Stub& stub,
             const v1::GenerateImageRequest& request)
      : reader_(stub.GenerateImage(&context_, request)) {}

  // Waits until the server has accepted it.
  bool WaitUntilQueued() {
    v1::GenerateImageResponse event;
    return reader_->Read(&event) && event.has_queued();
  }

  // The image's file, empty if there was an error.
  std::string Wait() {
    std::string file;
    v1::GenerateImageResponse event;
    while (reader_->Read(&event)) {
      if (event.has_image()) file += event.image().data();
    }
    return reader_->Finish().ok() ? file : "";
  }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReader<v1::GenerateImageResponse>> reader_;
};

class PriorityTest : public testing::Test {
 protected:
  static constexpr uint64_t kBatchSeed = 1;
  static constexpr uint64_t kInteractiveSeed = 2;

  PriorityTest() : stub_(v1::GenerationService::NewStub(daemon_.NewChannel())) {
    daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile(1));
    v1::LoadAdapterRequest request;
    request.set_path("ink.safetensors");
    v1::LoadAdapterResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(v1::AdapterService::NewStub(daemon_.NewChannel())
                    ->LoadAdapter(&context, request, &response)
                    .ok());
  }

  static v1::GenerateImageRequest Request(v1::Priority priority, uint64_t seed,
                                          uint32_t steps) {
    v1::GenerateImageRequest request;
    request.set_prompt("a star");
    request.set_width(64);
    request.set_height(64);
    request.set_steps(steps);
    request.set_seed(seed);
    request.set_priority(priority);
    return request;
  }

  // Of the first step, counted over all, that an image took part in.
  size_t FirstStepOf(uint64_t seed) {
    const std::vector<std::vector<uint64_t>> batches =
        daemon_.engine().batches();
    const auto first = std::find_if(
        batches.begin(), batches.end(),
        [&](const std::vector<uint64_t>& seeds) {
          return std::find(seeds.begin(), seeds.end(), seed) != seeds.end();
        });
    return static_cast<size_t>(first - batches.begin());
  }

  InProcessDaemon daemon_;
  const std::unique_ptr<v1::GenerationService::Stub> stub_;
};

// A job of 50 steps with other adapters runs; as long as it, so that it does
// not go first for being short.
TEST_F(PriorityTest, InteractiveRequestBeginsWithinTwoStepsOfABatchJob) {
  constexpr int kStepsBefore = 20;
  v1::GenerateImageRequest job =
      Request(v1::PRIORITY_BATCH, kBatchSeed, /*steps=*/50);
  job.add_adapters()->set_name("ink");
  const std::string undisturbed = Generating(*stub_, job).Wait();
  ASSERT_FALSE(undisturbed.empty());
  const size_t job_begins = daemon_.engine().batches().size();

  daemon_.engine().Block(Call::kStep);
  Generating running(*stub_, job);
  for (int i = 0; i < kStepsBefore; ++i) {
    ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
    daemon_.engine().LetOneThrough(Call::kStep);
  }
  Generating interactive(*stub_, Request(v1::PRIORITY_INTERACTIVE,
                                         kInteractiveSeed, /*steps=*/50));
  ASSERT_TRUE(interactive.WaitUntilQueued());
  const size_t arrived_at = daemon_.engine().batches().size();
  ASSERT_LE(arrived_at, job_begins + kStepsBefore);
  daemon_.engine().Unblock(Call::kStep);

  EXPECT_FALSE(interactive.Wait().empty());
  EXPECT_EQ(running.Wait(), undisturbed);
  EXPECT_LE(FirstStepOf(kInteractiveSeed), arrived_at + 2);
}

TEST_F(PriorityTest, UnknownPriorityIsRefused) {
  v1::GenerateImageRequest request =
      Request(static_cast<v1::Priority>(7), kBatchSeed, /*steps=*/1);
  grpc::ClientContext context;
  const auto reader = stub_->GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELD");
  EXPECT_THAT(status.error_message(), testing::HasSubstr("priority"));
}

}  // namespace
}  // namespace graft
