#include "server/rpc/reply_buffer.h"

#include <algorithm>
#include <utility>

#include "server/rpc/proto_conversions.h"

namespace graft {

void ReplyBuffer::AddQueued(int position, absl::Duration estimated_wait) {
  DropBehindImages([](const v1::GenerateImageResponse& event) {
    return event.has_queued();
  });
  v1::Queued& queued = *AddMessage().mutable_queued();
  queued.set_position(static_cast<uint32_t>(position));
  queued.set_estimated_wait_ms(absl::ToDoubleMilliseconds(estimated_wait));
}

void ReplyBuffer::AddStarted() { AddMessage().mutable_started(); }

void ReplyBuffer::AddProgress(int image_index, int step, int steps) {
  DropBehindImages([](const v1::GenerateImageResponse& event) {
    return event.has_progress();
  });
  v1::Progress& progress = *AddMessage().mutable_progress();
  progress.set_image_index(static_cast<uint32_t>(image_index));
  progress.set_step(static_cast<uint32_t>(step));
  progress.set_steps(static_cast<uint32_t>(steps));
}

void ReplyBuffer::AddPreview(int image_index, int step, int steps,
                             std::string png) {
  DropBehindImages([=](const v1::GenerateImageResponse& event) {
    return event.has_preview() &&
           event.preview().image_index() == static_cast<uint32_t>(image_index);
  });
  v1::Preview& preview = *AddMessage().mutable_preview();
  preview.set_image_index(static_cast<uint32_t>(image_index));
  preview.set_step(static_cast<uint32_t>(step));
  preview.set_steps(static_cast<uint32_t>(steps));
  preview.set_png(std::move(png));
}

void ReplyBuffer::AddImage(int image_index,
                           std::shared_ptr<const std::string> png) {
  Entry entry;
  entry.png = std::move(png);
  entry.image_index = image_index;
  entries_.push_back(std::move(entry));
}

void ReplyBuffer::AddFinished(const GenerationSummary& summary) {
  *AddMessage().mutable_finished() = ToProto(summary);
}

std::optional<v1::GenerateImageResponse> ReplyBuffer::Next() {
  if (entries_.empty()) return std::nullopt;
  Entry& entry = entries_.front();
  const bool is_image = entry.png != nullptr;
  v1::GenerateImageResponse message =
      is_image ? NextChunk(entry) : std::move(entry.message);
  if (!is_image || entry.sent == entry.png->size()) entries_.pop_front();
  message.set_request_id(request_id_);
  return message;
}

void ReplyBuffer::DropBehindImages(
    absl::FunctionRef<bool(const v1::GenerateImageResponse&)> matches) {
  const auto behind =
      std::find_if(entries_.rbegin(), entries_.rend(), [](const Entry& entry) {
        return entry.png != nullptr;
      }).base();
  entries_.erase(std::remove_if(behind, entries_.end(),
                                [&](const Entry& entry) {
                                  return matches(entry.message);
                                }),
                 entries_.end());
}

v1::GenerateImageResponse& ReplyBuffer::AddMessage() {
  entries_.emplace_back();
  return entries_.back().message;
}

v1::GenerateImageResponse ReplyBuffer::NextChunk(Entry& entry) const {
  const size_t size = std::min(kMaxChunkBytes, entry.png->size() - entry.sent);
  v1::GenerateImageResponse message;
  v1::ImageChunk& chunk = *message.mutable_image();
  chunk.set_image_index(static_cast<uint32_t>(entry.image_index));
  chunk.set_data(entry.png->data() + entry.sent, size);
  entry.sent += size;
  chunk.set_last(entry.sent == entry.png->size());
  chunk.set_seed(first_seed_ + static_cast<uint64_t>(entry.image_index));
  chunk.set_total_bytes(entry.png->size());
  return message;
}

}  // namespace graft
