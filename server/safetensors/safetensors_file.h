#ifndef GRAFT_SERVER_SAFETENSORS_SAFETENSORS_FILE_H_
#define GRAFT_SERVER_SAFETENSORS_SAFETENSORS_FILE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// One parsed safetensors file (github.com/huggingface/safetensors, "Format"):
// an 8-byte little-endian header length, a JSON header, then the tensors'
// bytes.
//
// Parsing is strict and checks every length against the real number of bytes:
// header <= max_header_bytes and an object nested at most 4 deep, no duplicate
// keys, known dtypes, shapes whose product neither wraps nor disagrees with the
// byte range, ranges that cover the data section without hole or overlap. A
// file that breaks a rule is ADAPTER_CORRUPT with the first such tensor's name
// under the metadata key "tensor"; a too large header is ADAPTER_CORRUPT too.
// Nothing here looks at values. Whatever is accepted here, the reference reader
// accepts with the same content.
//
// Immutable and thread-safe after construction; movable. Views stay valid as
// long as the file object, or a copy of owner(), lives.
class SafetensorsFile {
 public:
  struct Limits {
    size_t max_header_bytes = size_t{8} << 20;
  };

  // Parses `bytes`, which `owner` keeps alive. `name` is for messages only.
  static absl::StatusOr<SafetensorsFile> Parse(
      std::shared_ptr<const void> owner, absl::Span<const uint8_t> bytes,
      absl::string_view name, const Limits& limits);

  // Maps a file read-only: for the base model's files, which belong to the
  // operator. A mapped file that is truncated later kills the process (SIGBUS),
  // so never use it for an adapter. Errors: NOT_FOUND or FAILED_PRECONDITION
  // (MODEL_UNSUPPORTED) naming the path.
  static absl::StatusOr<SafetensorsFile> Map(const std::string& path,
                                             const Limits& limits);

  // By name, in byte order. Excludes "__metadata__".
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

  // The strings of "__metadata__"; empty when absent.
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }

  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  SafetensorsFile() = default;

  std::shared_ptr<const void> owner_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SAFETENSORS_SAFETENSORS_FILE_H_
