#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft {

// The whole content of one file, and the digest of exactly these bytes.
struct AdapterFile {
  std::shared_ptr<const void> owner;  // keeps `bytes` alive
  absl::Span<const uint8_t> bytes;
  std::string sha256;  // 64 hex digits
};

// Reads adapter files below one directory, which may hold anything: nothing in
// it can block the caller, lead outside, or be used before it is checked. The
// directory is opened anew for every file, so it may come and go while the
// server runs. Immutable, thread-safe.
class AdapterSource {
 public:
  struct Options {
    std::string directory;  // empty: no file can be read
    int64_t max_file_bytes = int64_t{4} << 30;
  };

  explicit AdapterSource(Options options);

  // The checks that `path` alone is enough for: INVALID_FIELD (field "path") if
  // it is empty, too long or not UTF-8 text without control characters,
  // PATH_NOT_ALLOWED if it is absolute or has "..".
  static absl::Status CheckPath(absl::string_view path);

  // Reads the file at `path`, relative to the directory. Blocks on the disk.
  //   INVALID_FIELD                 as CheckPath
  //   ADAPTER_DIR_NOT_SET           no directory
  //   PATH_NOT_ALLOWED              as CheckPath, or a link in it leads outside
  //   ADAPTER_NOT_FOUND             no such file
  //   ADAPTER_TOO_LARGE             above max_file_bytes
  //   ADAPTER_CORRUPT               no regular .safetensors file, unreadable,
  //   or
  //                                 its size changed while it was read
  absl::StatusOr<AdapterFile> Read(absl::string_view path) const;

  const Options& options() const { return options_; }

 private:
  const Options options_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_
