#include "server/rpc/reply_buffer.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

class ReplyBufferTest : public testing::Test {
 protected:
  v1::GenerateImageResponse Take() {
    std::optional<v1::GenerateImageResponse> message = buffer_.Next();
    EXPECT_TRUE(message.has_value());
    return message.value_or(v1::GenerateImageResponse());
  }

  static std::shared_ptr<const std::string> Png(std::string bytes) {
    return std::make_shared<const std::string>(std::move(bytes));
  }

  ReplyBuffer buffer_{"request-1", /*first_seed=*/~uint64_t{0}};
};

TEST_F(ReplyBufferTest, IsEmptyAtFirst) {
  EXPECT_FALSE(buffer_.Next().has_value());
}

TEST_F(ReplyBufferTest, GivesEventsInOrderWithTheRequestId) {
  buffer_.AddQueued(3, absl::Milliseconds(1500));
  buffer_.AddStarted();
  buffer_.AddProgress(0, 1, 20);
  const v1::GenerateImageResponse queued = Take();
  EXPECT_EQ(queued.request_id(), "request-1");
  EXPECT_EQ(queued.queued().position(), 3u);
  EXPECT_EQ(queued.queued().estimated_wait_ms(), 1500.0);
  EXPECT_TRUE(Take().has_started());
  EXPECT_EQ(Take().progress().steps(), 20u);
  EXPECT_FALSE(buffer_.Next().has_value());
}

TEST_F(ReplyBufferTest, ProgressOfASlowClientIsCoalesced) {
  buffer_.AddStarted();
  for (int step = 1; step <= 1000; ++step) buffer_.AddProgress(0, step, 1000);
  EXPECT_TRUE(Take().has_started());
  EXPECT_EQ(Take().progress().step(), 1000u);
  EXPECT_FALSE(buffer_.Next().has_value());
}

TEST_F(ReplyBufferTest, BacklogOfASlowClientIsTheNewestOfEachKind) {
  for (int i = 1; i <= 100; ++i) {
    buffer_.AddQueued(200 - i, absl::ZeroDuration());
  }
  buffer_.AddStarted();
  for (int step = 1; step <= 1000; ++step) {
    for (int image = 0; image < 2; ++image) {
      buffer_.AddProgress(image, step, 1000);
      buffer_.AddPreview(image, step, 1000, absl::StrCat("png ", step));
    }
  }
  EXPECT_EQ(Take().queued().position(), 100u);
  EXPECT_TRUE(Take().has_started());
  EXPECT_EQ(Take().preview().png(), "png 1000");
  EXPECT_EQ(Take().progress().step(), 1000u);
  EXPECT_EQ(Take().preview().image_index(), 1u);
  EXPECT_FALSE(buffer_.Next().has_value());
}

TEST_F(ReplyBufferTest, ImageComesInChunksOfAtMostOneMebibyte) {
  const std::string png(2 * ReplyBuffer::kMaxChunkBytes + 5, 'p');
  buffer_.AddImage(1, Png(png));
  std::string received;
  for (int i = 0; i < 3; ++i) {
    const v1::ImageChunk chunk = Take().image();
    EXPECT_LE(chunk.data().size(), ReplyBuffer::kMaxChunkBytes);
    EXPECT_EQ(chunk.image_index(), 1u);
    EXPECT_EQ(chunk.seed(), 0u);  // wraps around
    EXPECT_EQ(chunk.total_bytes(), png.size());
    EXPECT_EQ(chunk.last(), i == 2);
    received += chunk.data();
  }
  EXPECT_EQ(received, png);
  EXPECT_FALSE(buffer_.Next().has_value());
}

TEST_F(ReplyBufferTest, BuffersShareAnImage) {
  const auto png = Png(std::string(2 * ReplyBuffer::kMaxChunkBytes, 'p'));
  std::vector<ReplyBuffer> buffers(16, ReplyBuffer("replay", 0));
  for (ReplyBuffer& buffer : buffers) buffer.AddImage(0, png);
  EXPECT_EQ(png.use_count(), 17);
  for (ReplyBuffer& buffer : buffers) {
    while (buffer.Next().has_value()) continue;
  }
  EXPECT_EQ(png.use_count(), 1);
}

TEST_F(ReplyBufferTest, ImageOfExactlyOneChunkIsOneMessage) {
  buffer_.AddImage(0, Png(std::string(ReplyBuffer::kMaxChunkBytes, 'p')));
  EXPECT_TRUE(Take().image().last());
  EXPECT_FALSE(buffer_.Next().has_value());
}

TEST_F(ReplyBufferTest, ProgressDoesNotOvertakeAnImage) {
  buffer_.AddProgress(0, 20, 20);
  buffer_.AddImage(0, Png("png"));
  buffer_.AddProgress(1, 1, 20);
  EXPECT_EQ(Take().progress().image_index(), 0u);
  EXPECT_TRUE(Take().has_image());
  EXPECT_EQ(Take().progress().image_index(), 1u);
}

TEST_F(ReplyBufferTest, FinishedTellsTheSummary) {
  GenerationSummary summary;
  summary.seeds = {5, 6};
  summary.adapters = {{"ink", "abc", 0.5, 0.25}};
  summary.base_sha256 = "base";
  summary.timings.denoise = absl::Milliseconds(1500);
  summary.truncated_tokens = 4;
  buffer_.AddFinished(summary);
  const v1::Finished finished = Take().finished();
  EXPECT_THAT(finished.seeds(), testing::ElementsAre(5, 6));
  EXPECT_EQ(finished.adapters(0).name(), "ink");
  EXPECT_EQ(finished.adapters(0).text_encoder_weight(), 0.25f);
  EXPECT_EQ(finished.base_sha256(), "base");
  EXPECT_EQ(finished.timings().denoise_ms(), 1500.0);
  EXPECT_EQ(finished.truncated_tokens(), 4u);
}

TEST_F(ReplyBufferTest, ClearDropsEverything) {
  buffer_.AddStarted();
  buffer_.AddImage(0, Png("png"));
  buffer_.Clear();
  EXPECT_FALSE(buffer_.Next().has_value());
}

}  // namespace
}  // namespace graft
