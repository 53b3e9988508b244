#ifndef GRAFT_SERVER_RPC_REPLY_BUFFER_H_
#define GRAFT_SERVER_RPC_REPLY_BUFFER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "graft/v1/generation.pb.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// What waits to be written to one client of GenerateImage, in the order in
// which it is to be written. A slow client's backlog is bounded: a new place in
// the queue, progress or preview replaces an old one that was not yet taken,
// and images number at most `count`, whose bytes are shared with the other
// clients that wait for them. Thread-compatible: the reactor's mutex guards it.
class ReplyBuffer {
 public:
  // Bytes of image data in one message.
  static constexpr size_t kMaxChunkBytes = size_t{1} << 20;

  // `first_seed` is image 0's.
  ReplyBuffer(std::string request_id, uint64_t first_seed)
      : request_id_(std::move(request_id)), first_seed_(first_seed) {}

  void AddQueued(int position, absl::Duration estimated_wait);
  void AddStarted();
  void AddProgress(int image_index, int step, int steps);
  void AddPreview(int image_index, int step, int steps, std::string png);
  void AddImage(int image_index, std::shared_ptr<const std::string> png);
  void AddFinished(const GenerationSummary& summary);

  // Drops everything: the stream ends with an error.
  void Clear() { entries_.clear(); }

  // Takes the next message; nullopt when nothing waits.
  std::optional<v1::GenerateImageResponse> Next();

 private:
  // Either a whole message, or the rest of an image.
  struct Entry {
    v1::GenerateImageResponse message;
    std::shared_ptr<const std::string> png;  // null: `message` is the event
    size_t sent = 0;                         // bytes of png
    int image_index = 0;
  };

  // Drops the events that match and come after the last image: what comes now
  // is newer.
  void DropBehindImages(
      absl::FunctionRef<bool(const v1::GenerateImageResponse&)> matches);

  v1::GenerateImageResponse& AddMessage();
  v1::GenerateImageResponse NextChunk(Entry& entry) const;

  const std::string request_id_;
  const uint64_t first_seed_;
  std::deque<Entry> entries_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_REPLY_BUFFER_H_
